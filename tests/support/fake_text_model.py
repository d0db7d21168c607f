"""An ElasticModel for tests of the command line: fixed texts, no engine."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Self

from pliant.errors import ContextOverflowError, UnknownLevelError
from support.synthetic_latency import RATIOS, make_latency, make_level

# Slow, so that what deciding really takes counts for nothing beside it.
LATENCY = make_latency(slowness=1000.0)
CONTEXT = 1024
WORDS = "one two three four"


@dataclass
class FakeTextModel:
    """Answers `answer(messages, level)`, one token per word; records what it was asked."""

    answer: Callable[[Sequence[Any], float], str]
    ratios: Sequence[float] = RATIOS
    asked: list[tuple[list[Any], float, int]] = field(default_factory=list)
    before_token: Callable[[int], None] = lambda index: None
    is_closed: bool = False

    def __post_init__(self) -> None:
        self.levels = tuple(make_level(ratio) for ratio in self.ratios)
        self.bundle = SimpleNamespace(name="fake", level=self._level, tlm_path=None)
        self.engine = SimpleNamespace(memory=SimpleNamespace(mapped=1 << 20, copied=1 << 10))

    def _level(self, ratio: float) -> Any:
        for level in self.levels:
            if level.ratio == ratio:
                return level
        raise UnknownLevelError(f"no level {ratio:g}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.is_closed = True

    def encode_prompt(self, prompt: Sequence[Any]) -> "FakeTokens":
        return FakeTokens(list(prompt))

    def room_after(self, prompt_tokens: int) -> int:
        if prompt_tokens >= CONTEXT:
            raise ContextOverflowError(
                "does not fit", needed_tokens=prompt_tokens + 1, available_tokens=CONTEXT
            )
        return CONTEXT - prompt_tokens

    def stream(
        self,
        prompt: Any,
        *,
        level: float,
        max_tokens: int,
        sampling: Any = None,
        stop: Sequence[str] = (),
        cancel: Any = None,
    ) -> Iterator[Any]:
        messages = prompt.messages if isinstance(prompt, FakeTokens) else list(prompt)
        self.asked.append((messages, level, max_tokens))
        words = self.answer(messages, level).split(" ")[:max_tokens]
        reason, said = "stop", []
        for index, word in enumerate(words):
            self.before_token(index)
            said.append(word)
            yield SimpleNamespace(text=word if index == 0 else f" {word}", generation=None)
            if cancel is not None and cancel.is_set():
                reason = "cancelled"
                break
        yield SimpleNamespace(
            text="", generation=_generation(" ".join(said), len(prompt), level, reason)
        )

    def generate(self, prompt: Any, *, level: float = 1.0, max_tokens: int) -> Any:
        self.asked.append((list(prompt), level, max_tokens))
        return _generation(self.answer(prompt, level), len(prompt), level, "stop")


@dataclass
class FakeTokens:
    """As many tokens as ten times the words of the messages."""

    messages: list[Any]

    def __len__(self) -> int:
        return 10 * sum(len(message["content"].split()) for message in self.messages)


def _generation(text: str, prompt_tokens: int, level: float, reason: str) -> Any:
    """It takes what LATENCY says."""
    ratio = min(LATENCY.ratios, key=lambda ratio: abs(ratio - level))
    return SimpleNamespace(
        text=text,
        tokens=tuple(range(len(text.split(" ")))),
        level=level,
        finish_reason=reason,
        ttft_ms=LATENCY.predict_ttft(ratio, prompt_tokens),
        tpot_ms=LATENCY.predict_tpot(ratio, prompt_tokens) if " " in text else None,
    )
