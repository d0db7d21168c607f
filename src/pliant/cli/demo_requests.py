"""The requests of `pliant demo`: six apps, each with the SLO it has in ElastiLM's trace."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pliant.errors import BundleNotFoundError, CorruptFileError
from pliant.files import read_file
from pliant.slo import Slo

APPS = {
    "notification": Slo(ttft=1.0, tpot=1.0),
    "setting": Slo(ttft=0.8, tpot=0.9),
    "function": Slo(ttft=0.6, tpot=0.8),
    "app": Slo(ttft=0.4, tpot=0.7),
    "intent": Slo(ttft=0.2, tpot=0.6),
    "contact": Slo(ttft=0.2, tpot=0.5),
}
REQUESTS_PER_APP = 6

_SEED = 20
_FIELDS = {"app", "messages", "choices", "answer", "answer_index"}


@dataclass(frozen=True)
class DemoRequest:
    """What one app asks, with the answer that is right."""

    app: str
    messages: tuple[dict[str, str], ...]
    answer: str

    @property
    def slo(self) -> Slo:
        return APPS[self.app]

    def is_right(self, text: str) -> bool:
        return normalise(text) == normalise(self.answer)


def normalise(text: str) -> str:
    """Without differences of case, spacing and final punctuation."""
    return " ".join(text.casefold().split()).rstrip(".!").rstrip()


def built_in_requests() -> Path:
    """The generated requests that come with the model `pocket`."""
    return Path(str(files("pliant") / "models" / "pocket_demo.jsonl"))


def read_requests(path: Path) -> list[DemoRequest]:
    """Six requests of every app, in an order that is shuffled but always the same.

    Raises BundleNotFoundError or CorruptFileError.
    """
    try:
        lines = read_file(path).decode("utf-8").splitlines()
    except OSError as error:
        raise BundleNotFoundError(f"cannot read the demo's requests: {error}") from error
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{path}: not UTF-8 text: {error}") from error
    seen: Counter[str] = Counter()
    requests = []
    for request in _parse(path, lines):
        seen[request.app] += 1
        if seen[request.app] <= REQUESTS_PER_APP:
            requests.append(request)
    short = [app for app in APPS if seen[app] < REQUESTS_PER_APP]
    if short:
        raise CorruptFileError(
            f"{path}: needs {REQUESTS_PER_APP} requests of every app, has fewer of "
            f"{', '.join(short)}"
        )
    random.Random(_SEED).shuffle(requests)
    return requests


def _parse(path: Path, lines: list[str]) -> Iterator[DemoRequest]:
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorruptFileError(f"{path}, line {number}: not valid JSON: {error}") from error
        if not _is_valid(row):
            raise CorruptFileError(f"{path}, line {number}: not a demo request of a known app")
        yield DemoRequest(row["app"], tuple(row["messages"]), row["answer"])


def _is_valid(row: Any) -> bool:
    if not isinstance(row, dict) or not set(row) >= _FIELDS:
        return False
    messages = row["messages"]
    return (
        isinstance(row["app"], str)
        and row["app"] in APPS
        and isinstance(row["answer"], str)
        and isinstance(messages, list)
        and len(messages) > 0
        and all(isinstance(m, dict) and all(isinstance(v, str) for v in m.values())
                for m in messages)
    )  # fmt: skip
