"""The candidates for a request: every level with every prompt ratio, and what each would take."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pliant.errors import RequestError
from pliant.slo.latency import LatencyModel
from pliant.slo.limits import Limits, mean_kv
from pliant.slo.online import OnlineLatency


@dataclass(frozen=True)
class State:
    """What else a request's first token waits for.

    `context_tokens` are in the KV cache already, or will be after a restore that is planned to
    take `restore_ms`: a number, or one for each level (a function of its ratio). `queue_ms` passes
    before the request's turn.
    """

    context_tokens: int = 0
    queue_ms: float = 0.0
    restore_ms: float | Callable[[float], float] = 0.0

    def __post_init__(self) -> None:
        for name in ("context_tokens", "queue_ms", "restore_ms"):
            value = getattr(self, name)
            if not callable(value) and not value >= 0:
                raise RequestError(f"{name} is {value!r}; it must be 0 or more")

    def wait_ms(self, level: float, restore_factor: float = 1.0) -> float:
        """Queue, and a restore that takes `restore_factor` times what is planned."""
        restore_ms = self.restore_ms(level) if callable(self.restore_ms) else self.restore_ms
        return self.queue_ms + restore_factor * restore_ms


IDLE = State()
"""A new context, and nothing to wait for."""


@dataclass(frozen=True)
class Strategy:
    """A level and a share of the prompt, with the latencies predicted for them.

    `prompt_tokens` are what is left of the prompt: what is protected is never dropped.
    `violation` is the worse prediction, with its margin added, as a multiple of its limit.
    """

    level: float
    prompt_ratio: float
    prompt_tokens: int
    predicted_ttft_ms: float
    predicted_tpot_ms: float
    violation: float

    @property
    def feasible(self) -> bool:
        """Whether both latencies are predicted to keep to the limits."""
        return self.violation <= 1


@dataclass(frozen=True)
class Work:
    """A request in numbers: tokens of its prompt, those that cannot be dropped, and of its
    longest answer; `is_read` by the TLM, whose time then counts."""

    prompt_tokens: int
    max_tokens: int
    min_tokens: int = 0
    is_read: bool = False
    state: State = IDLE

    def tokens_at(self, prompt_ratio: float) -> int:
        """Tokens of the prompt shortened to this ratio, as far as it can be."""
        wanted = max(1, self.min_tokens, round(prompt_ratio * self.prompt_tokens))
        return self.prompt_tokens if prompt_ratio >= 1 else min(self.prompt_tokens, wanted)

    def reading_ms(self, latency: LatencyModel) -> float:
        """What the TLM adds to any level's time to first token, by the calibration: the whole
        prompt is encoded, read, and made ready for shortening."""
        passes = (latency.encoding, latency.reading, latency.compressing)
        return sum(cost.ms(self.prompt_tokens) for cost in passes) if self.is_read else 0.0

    def kv_tokens(self, tokens: int) -> int:
        """KV length at the answer's mean step."""
        return mean_kv(self.state.context_tokens + tokens, self.max_tokens)


def make_grid(
    latency: OnlineLatency,
    work: Work,
    levels: Sequence[float],
    prompt_ratios: Sequence[float],
    limits: Limits,
) -> tuple[Strategy, ...]:
    """Every pair, by level and then by prompt ratio, as ordered in the arguments."""
    return tuple(_strategies(latency, work, levels, prompt_ratios, limits))


def _strategies(
    latency: OnlineLatency,
    work: Work,
    levels: Sequence[float],
    prompt_ratios: Sequence[float],
    limits: Limits,
) -> Iterator[Strategy]:
    margins, base, start = latency.margins, latency.base, work.state.context_tokens
    reading_ms = work.reading_ms(base) * latency.reading_factor()
    tokens_at = [(ratio, work.tokens_at(ratio)) for ratio in prompt_ratios]
    for level in levels:
        ttft_factor, tpot_factor = latency.ttft_factor(level), latency.tpot_factor(level)
        wait_ms = work.state.wait_ms(level, latency.restore_factor(level))
        for ratio, tokens in tokens_at:
            prefill_ms = base.predict_ttft(level, tokens, start) * ttft_factor
            ttft_ms = reading_ms + prefill_ms + wait_ms
            tpot_ms = base.predict_tpot(level, work.kv_tokens(tokens)) * tpot_factor
            violation = limits.violation(ttft_ms * (1 + margins.ttft), tpot_ms * (1 + margins.tpot))
            yield Strategy(level, ratio, tokens, ttft_ms, tpot_ms, violation)
