"""Labels for a whole file of questions: in groups, resumable, here or on a Ray cluster."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pliant.bundle import Bundle, open_bundle
from pliant.bundle.manifest import TLM_FILE
from pliant.cluster import connected, run_tasks
from pliant.engine.engine import DEFAULT_CONTEXT, MAX_BATCH
from pliant.engine.model import ElasticModel
from pliant.engine.options import EngineOptions
from pliant.engine.questions import Question, TextPrompt, as_asked, read_questions
from pliant.errors import BundleError, LabelError
from pliant.progress import Track, untracked
from pliant.tlm.compress import prepare_prompt
from pliant.tlm.labels.decisions import PROMPT_RATIOS, Shorten, decision_rows
from pliant.tlm.labels.rows import DECISION_FILE, SCORE_FILE, DecisionRow, ScoreRow
from pliant.tlm.labels.saliency import MAX_GROUPS, saliency_rows
from pliant.tlm.labels.scoring import encode_choices
from pliant.tlm.labels.store import RowFile
from pliant.tlm.model import TinyModel
from pliant.tlm.protect import STRUCTURE
from pliant.tlm.scores import Scorer, TokenScore

Head = Literal["score", "decision"]
_Rows = list[ScoreRow] | list[DecisionRow]

FILES = {"score": SCORE_FILE, "decision": DECISION_FILE}
MAX_SLOTS = 32
_KV_BYTES = 1 << 30
_TASK_THREADS = 4


@dataclass(frozen=True)
class LabelledTasks:
    """`skipped` questions did not fit the model's context; `labelled` ones are in `path`."""

    path: Path
    labelled: int
    skipped: int


def label_tasks(
    source: str | Path,
    tasks: Path,
    out: Path,
    head: Head,
    *,
    ray: str | None = None,
    track: Track = untracked,
) -> LabelledTasks:
    """Labels for one head from the questions in `tasks`, written to the folder `out`.

    Score labels need a bundle, decision labels one with a trained score head. What was interrupted
    goes on where it was. `ray` is the address of a cluster whose nodes all see the bundle at the
    same path; results are the same. Raises LabelError, BundleError or ElastifyError.
    """
    bundle = open_bundle(source)
    if head == "decision" and bundle.tlm_path is None:
        raise BundleError(
            f"{bundle.name} has no TLM to shorten the prompts with: make score labels and run "
            "`pliant tlm train` first"
        )
    questions = read_questions(tasks)
    with closing(Labeller(bundle)) as labeller:
        fitting = [question for question in questions if labeller.fits(question)]
        if not fitting:
            raise LabelError(f"none of the questions in {tasks} fits the context of {bundle.name}")
        file = RowFile(out / FILES[head], _settings(bundle, tasks, head))
        size = labeller.model.engine.num_slots
        # What is computed together is made again together, so that the rows are the same.
        first = len(file) // size * size
        groups = [fitting[at : at + size] for at in range(first, len(fitting), size)]
        skip = len(file) % size if groups else 0
        made = _on_cluster(bundle, head, groups, ray) if ray else _here(labeller, head, groups)
        for rows in track(made, f"{head} labels", len(groups)):
            file.append(rows[skip:])
            skip = 0
    return LabelledTasks(out / FILES[head], len(fitting), len(questions) - len(fitting))


class Labeller:
    """A bundle's model with slots for many questions, and its TLM if it has one."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        options = EngineOptions(slots=_num_slots(bundle), threads=threads)
        with ExitStack() as stack:
            self.model = stack.enter_context(ElasticModel(bundle, options))
            self.tlm: TinyModel | None = None
            if bundle.tlm_path is not None:
                self.tlm = stack.enter_context(TinyModel(bundle.tlm_path, threads=threads))
            self._stack = stack.pop_all()

    def fits(self, question: Question) -> bool:
        """Whether the prompt fits the context with every choice."""
        prompt, choices = as_asked(self.model, question)
        lengths = [len(choice) for choice in encode_choices(self.model, prompt, choices)]
        longest = max(lengths)
        room = self.model.engine.context_length - self.model.count_tokens(prompt)
        return min(lengths) > 0 and longest <= min(room, MAX_BATCH)

    def rows(self, head: Head, questions: Sequence[Question]) -> _Rows:
        """Labels of at most as many questions as the engine has slots."""
        if head == "score":
            return saliency_rows(self.model, questions)
        return self.decisions(questions)

    def decisions(self, questions: Sequence[Question]) -> list[DecisionRow]:
        """As `decision_rows`, the prompts shortened by the bundle's own TLM."""
        assert self.tlm is not None
        return decision_rows(self.model, questions, shortening(self.model, self.tlm))

    def close(self) -> None:
        self._stack.close()


def shortening(model: ElasticModel, scorer: Scorer) -> Shorten:
    """Compression by `scorer`, which reads each prompt once however often it is shortened."""

    def shorten(prompt: TextPrompt) -> Callable[[float], TextPrompt]:
        prepared = prepare_prompt(prompt, model=model, protect=STRUCTURE)
        known = _KnownScores(scorer)
        return lambda ratio: prepared.at(ratio, known, model.bundle).prompt

    return shorten


class _KnownScores:
    """What `scorer` said of the one text there is."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._scores: list[list[TokenScore]] | None = None

    def scores(self, texts: Sequence[str]) -> list[list[TokenScore]]:
        if self._scores is None:
            self._scores = self._scorer.scores(texts)
        return self._scores


def _here(labeller: Labeller, head: Head, groups: Sequence[Sequence[Question]]) -> Iterator[_Rows]:
    for group in groups:
        yield labeller.rows(head, group)


def _on_cluster(
    bundle: Bundle, head: Head, groups: Sequence[Sequence[Question]], address: str
) -> Iterator[_Rows]:
    with connected(address) as cpus:
        shared = (str(bundle.path), _identity(bundle, head), head)
        arguments = [(group,) for group in groups]
        yield from run_tasks(_label_group, shared, arguments, min(_TASK_THREADS, *cpus))


def _label_group(
    threads: int, shared: tuple[str, str, Head], questions: Sequence[Question]
) -> _Rows:
    """A task of the cluster."""
    path, identity, head = shared
    return _labeller(path, identity, head, threads).rows(head, questions)


@cache
def _labeller(path: str, identity: str, head: Head, threads: int) -> Labeller:
    """Opened once in each of the cluster's processes, whose end closes it."""
    bundle = open_bundle(path)
    if _identity(bundle, head) != identity:
        raise LabelError(f"on {platform.node()} the bundle {path} is another one")
    return Labeller(bundle, threads)


def _identity(bundle: Bundle, head: Head) -> str:
    """Changes with what makes the labels: the model, its levels, and for decisions the TLM."""
    parts = [bundle.sha256, *(repr(level) for level in bundle.levels)]
    if bundle.manifest is not None:
        names = {level.adapter for level in bundle.levels} - {None}
        names |= {TLM_FILE} if head == "decision" else set()
        parts += [bundle.manifest.files[str(name)].sha256 for name in sorted(map(str, names))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _settings(bundle: Bundle, tasks: Path, head: Head) -> dict[str, Any]:
    options = {"prompt_ratios": PROMPT_RATIOS} if head == "decision" else {"groups": MAX_GROUPS}
    return {
        "head": head,
        "bundle": _identity(bundle, head),
        "tasks": hashlib.sha256(tasks.read_bytes()).hexdigest(),
        **options,
    }


def _num_slots(bundle: Bundle) -> int:
    """Many, for what they compute together is computed faster, but in not too much memory."""
    a = bundle.architecture
    tokens = min(a.context_length, DEFAULT_CONTEXT)
    slot_bytes = 2 * 2 * a.num_layers * a.num_kv_heads * a.head_dim * tokens
    return max(1, min(MAX_SLOTS, _KV_BYTES // slot_bytes))
