"""An ElasticModel for tests of the command line: fixed texts, no engine."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Self

from pliant.errors import UnknownLevelError
from support.synthetic_latency import RATIOS, make_level


@dataclass
class FakeTextModel:
    """Answers `answer(messages, level)`, one token per word; records what it was asked."""

    answer: Callable[[Sequence[Any], float], str]
    ratios: Sequence[float] = RATIOS
    asked: list[tuple[list[Any], float, int]] = field(default_factory=list)
    before_token: Callable[[int], None] = lambda index: None
    cancelled: int = 0
    is_closed: bool = False

    def __post_init__(self) -> None:
        self.levels = tuple(make_level(ratio) for ratio in self.ratios)
        self.bundle = SimpleNamespace(name="fake", level=self._level)
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

    def count_tokens(self, messages: Sequence[Any]) -> int:
        return 10 * sum(len(message["content"].split()) for message in messages)

    def stream(
        self, prompt: list[Any], *, level: float, max_tokens: int, sampling: Any
    ) -> Iterator[Any]:
        self.asked.append((prompt, level, max_tokens))
        words = self.answer(prompt, level).split(" ")[:max_tokens]
        try:
            for index, word in enumerate(words):
                self.before_token(index)
                text = word if index == 0 else f" {word}"
                yield SimpleNamespace(text=text, tokens=(index,), logprobs=None)
        except GeneratorExit:
            self.cancelled += 1
            raise

    def generate(self, prompt: list[Any], *, level: float, max_tokens: int, **_: Any) -> Any:
        return SimpleNamespace(ttft_ms=10 * level)
