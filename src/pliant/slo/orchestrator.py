"""`Orchestrator`: from a prompt and an SLO to a level and a shortened prompt, and what is learnt.

Knows neither files nor the terminal; opening one for a bundle is `opening`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pliant.errors import BundleError, RequestError
from pliant.slo.answer import Answer, AnswerStream
from pliant.slo.choice import choose_by_reading, choose_by_rule, closest, unreachable
from pliant.slo.decision import Compression, Decision, Policy, check_compression
from pliant.slo.grid import IDLE, State, Strategy, Work, make_grid
from pliant.slo.latency import RATIO_TOLERANCE
from pliant.slo.limits import Limits, resolve
from pliant.slo.online import OnlineLatency
from pliant.slo.reader import Reader
from pliant.slo.slo import Slo
from pliant.slo.stopwatch import Stopwatch
from pliant.slo.survey import Survey
from pliant.tlm.protect import STRUCTURE, Protect

if TYPE_CHECKING:
    from pliant.engine.generate import CancelSignal, Generation
    from pliant.engine.model import ElasticModel, Prompt
    from pliant.engine.sampling import SamplingParams
    from pliant.slo.shortening import Shortener
    from pliant.tlm.compress import CompressedPrompt

Grid = tuple[Strategy, ...]

_WHOLE = (1.0,)

WHOLE_FROM = 0.5
"""The level from which on the whole prompt is not weighed against a part of it: what the TLM could
win by that is less than the time it takes (`benchmarks/orchestrator.py`)."""


@dataclass(frozen=True)
class _Request:
    prompt: "Prompt"
    tokens: Sequence[int]
    work: Work
    limits: Limits
    levels: tuple[float, ...]
    prompt_ratios: tuple[float, ...]
    protect: Protect


class Orchestrator:
    """Decides for each request, and learns from what it then took. Thread-safe as the model is.

    `protect` says which parts of a prompt are never dropped, where a request does not.
    """

    def __init__(
        self,
        model: "ElasticModel",
        latency: OnlineLatency,
        tlm: Reader | None = None,
        *,
        protect: Protect = STRUCTURE,
        whole_from: float = WHOLE_FROM,
    ) -> None:
        """Without a `tlm` prompts stay whole. Raises BundleError for one of other levels."""
        self.model = model
        self.latency = latency
        self.tlm = tlm
        self._levels = tuple(level.ratio for level in model.levels)
        self._whole_from = whole_from
        self._protect = protect
        self._prepare = None if tlm is None else _preparation(model)
        if tlm is not None:
            _check_levels(tlm, self._levels)

    def close(self) -> None:
        """Free the TLM; the model is the caller's. Idempotent."""
        if self.tlm is not None:
            self.tlm.close()

    def __enter__(self) -> "Orchestrator":
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()

    def decide(
        self,
        prompt: "Prompt",
        slo: Slo,
        *,
        max_tokens: int,
        state: State = IDLE,
        policy: Policy = "best_effort",
        compression: Compression = "auto",
        level: float | None = None,
        protect: Protect | None = None,
    ) -> Decision:
        """The level and the shortened prompt for an answer of up to `max_tokens`.

        Among the strategies that are predicted to meet both sides of the SLO with a margin: if
        the whole prompt is, at `whole_from` or a larger level, that; else the one that the TLM's
        decision head takes for likeliest. Without a TLM, and where there is no time to ask it,
        the largest level. With a `level`, only strategies of that one. Raises RequestError and
        its kin for a prompt that the model cannot take, SloUnreachableError under the policy
        `strict`.
        """
        watch = Stopwatch()
        request = self._request(prompt, slo, max_tokens, state, compression, level, protect)
        limits, tokens = request.limits, request.tokens
        survey = self._whole(request)
        if request.prompt_ratios != _WHOLE and not self._is_enough(survey, request):
            survey = self._shortened(request, survey, watch)
        if policy == "strict" and not survey.is_feasible:
            raise unreachable(survey.candidates, slo, limits, self.latency.margins, len(tokens))
        strategy, why = self._pick(survey, limits)
        with watch.timing("compress"):
            short = _shorten(survey, strategy)
        return Decision(
            strategy=strategy,
            prompt=prompt if short is None else short.prompt,
            kept=None if short is None else short.kept,
            tokens=tokens if short is None else short.tokens,
            candidates=survey.candidates,
            reading=survey.reading,
            limits=limits,
            why=why,
            work=survey.work,
            decide_ms=watch.total_ms(),
            read_ms=watch.ms("read"),
            compress_ms=watch.ms("compress"),
        )

    def survey(
        self, prompt: "Prompt", slo: Slo, *, max_tokens: int, compression: Compression = "auto"
    ) -> Survey:
        """All that could be chosen from and what the heads say of it, needed or not.

        Raises as `decide` does.
        """
        request = self._request(prompt, slo, max_tokens, IDLE, compression)
        whole = self._whole(request)
        if request.prompt_ratios == _WHOLE:
            return whole
        return self._shortened(request, whole, Stopwatch(), always=True)

    def observe(self, decision: Decision, generation: "Generation") -> None:
        """Learn from what the decision's request took.

        `generation.ttft_ms` counts from where the model began with it, after queue and restore.
        """
        if generation.finish_reason == "cancelled" and not generation.tokens:
            return
        work, level, base = decision.work, generation.level, self.latency.base
        num_tokens, start = len(decision.tokens), work.state.context_tokens
        ttft_ms = generation.ttft_ms
        if work.is_read:
            self.latency.observe_reading(work.reading_ms(base), decision.decide_ms)
        else:
            ttft_ms += decision.decide_ms
        self.latency.observe_ttft(level, base.predict_ttft(level, num_tokens, start), ttft_ms)
        if generation.tpot_ms is not None:
            kv_tokens = start + num_tokens + len(generation.tokens) // 2
            expected_ms = base.predict_tpot(level, kv_tokens)
            self.latency.observe_tpot(level, expected_ms, generation.tpot_ms)

    def stream(
        self,
        prompt: "Prompt",
        slo: Slo,
        *,
        max_tokens: int,
        policy: Policy = "best_effort",
        compression: Compression = "auto",
        protect: Protect | None = None,
        sampling: "SamplingParams | None" = None,
        stop: Sequence[str] = (),
        cancel: "CancelSignal | None" = None,
    ) -> AnswerStream:
        """Decide, and answer as `ElasticModel.stream` does; what it took is learned at the end.

        Raises as `decide` does, before the first chunk is asked for.
        """
        decision = self.decide(
            prompt,
            slo,
            max_tokens=max_tokens,
            policy=policy,
            compression=compression,
            protect=protect,
        )
        chunks = self.model.stream(
            decision.tokens,
            level=decision.strategy.level,
            max_tokens=decision.max_tokens,
            sampling=sampling,
            stop=stop,
            cancel=cancel,
        )
        return AnswerStream(decision, chunks, self.observe)

    def answer(self, prompt: "Prompt", slo: Slo, *, max_tokens: int, **options: Any) -> Answer:
        """As `stream`, with its options, all at once."""
        chunks = self.stream(prompt, slo, max_tokens=max_tokens, **options)
        for _ in chunks:
            pass
        assert chunks.answer is not None
        return chunks.answer

    def _request(
        self,
        prompt: "Prompt",
        slo: Slo,
        max_tokens: int,
        state: State,
        compression: Compression,
        level: float | None = None,
        protect: Protect | None = None,
    ) -> _Request:
        check_compression(compression)
        levels = self._levels if level is None else (self.model.bundle.level(level).ratio,)
        tokens = self.model.encode_prompt(prompt)
        room = self.model.room_after(state.context_tokens + len(tokens))
        work = Work(len(tokens), min(max_tokens, room), state=state)
        limits = self._limits(work, slo)
        ratios = self._prompt_ratios(prompt, compression, limits)
        return _Request(prompt, tokens, work, limits, levels, ratios, protect or self._protect)

    def _limits(self, work: Work, slo: Slo) -> Limits:
        start = work.state.context_tokens
        return resolve(self.latency.base, work.prompt_tokens, slo, work.max_tokens, start=start)

    def _prompt_ratios(
        self, prompt: "Prompt", compression: Compression, limits: Limits
    ) -> tuple[float, ...]:
        """Those to choose among; one of 1.0 alone leaves nothing for the TLM to do."""
        is_auto, can_shorten = compression == "auto", self.tlm is not None and _is_text(prompt)
        if isinstance(compression, float | int) and compression < 1 and not can_shorten:
            why = "the bundle has no TLM" if self.tlm is None else "it is given as token ids"
            raise RequestError(f"the prompt cannot be shortened: {why}")
        if not is_auto:
            return _WHOLE if compression == "off" else (float(compression),)
        if self.tlm is None or not can_shorten or limits.are_none:
            return _WHOLE
        return self.tlm.prompt_ratios

    def _whole(self, request: _Request) -> Survey:
        """The whole prompt at each level, without the TLM and its time."""
        work = request.work
        grid = make_grid(self.latency, work, request.levels, _WHOLE, request.limits)
        return Survey(work, grid)

    def _is_enough(self, whole: Survey, request: _Request) -> bool:
        return 1.0 in request.prompt_ratios and any(
            s.feasible and s.level >= self._whole_from for s in whole.candidates
        )

    def _shortened(
        self, request: _Request, whole: Survey, watch: Stopwatch, *, always: bool = False
    ) -> Survey:
        """With the TLM's time in all candidates, unless reading is in vain; `always` for show."""
        assert self._prepare is not None and self.tlm is not None
        limits, ratios = request.limits, request.prompt_ratios

        def grid_of(work: Work) -> Grid:
            return make_grid(self.latency, work, request.levels, ratios, limits)

        work = replace(request.work, is_read=True)
        grid = grid_of(work)
        if always or not self._is_in_vain(whole, grid, ratios):
            with watch.timing("compress"):
                shortener = self._prepare(request.prompt, request.tokens, request.protect)
            work = replace(work, min_tokens=shortener.min_tokens)
            grid = grid_of(work)
            if always or not self._is_in_vain(whole, grid, ratios):
                with watch.timing("read"):
                    reading = self.tlm.read(shortener.text, limits.ttft_share, limits.tpot_share)
                return Survey(work, grid, reading, shortener)
        both = (*(s for s in grid if s.prompt_ratio < 1), *whole.candidates)
        ordered = sorted(both, key=lambda s: (s.level, s.prompt_ratio))
        return replace(whole, candidates=tuple(ordered))

    def _is_in_vain(self, whole: Survey, grid: Grid, ratios: tuple[float, ...]) -> bool:
        """Whether the whole prompt, unread, meets the SLO or comes as close to it as any of `grid`,
        of which none does."""
        least = min(s.violation for s in grid)
        return 1.0 in ratios and least > 1 and min(s.violation for s in whole.candidates) <= least

    def _pick(self, survey: Survey, limits: Limits) -> tuple[Strategy, str]:
        candidates = survey.candidates
        feasible = tuple(s for s in candidates if s.feasible)
        pool = feasible or closest(candidates)
        what = f"{len(pool)} {'feasible' if feasible else 'closest'} of {len(candidates)}"
        if not feasible:
            what += "; nothing is predicted to meet the SLO"
        if survey.reading is not None and self.tlm is not None:
            strategy, share = choose_by_reading(pool, self.tlm, survey.reading)
            return strategy, f"the decision head's likeliest ({share:.0%}) of the {what}"
        strategy = choose_by_rule(pool)
        if limits.are_none:
            return strategy, f"no limit: level {strategy.level:g} and the whole prompt"
        return strategy, f"the whole prompt at the largest level of the {what}"


def _preparation(
    model: "ElasticModel",
) -> "Callable[[Prompt, Sequence[int], Protect], Shortener]":
    """Loaded before the first request, which would wait for it."""
    from pliant.slo.shortening import Shortener

    return partial(Shortener, model)


def _shorten(survey: Survey, strategy: Strategy) -> "CompressedPrompt | None":
    """The prompt at the strategy's ratio; None if it stays whole."""
    if survey.shortener is None or survey.reading is None or strategy.prompt_ratio >= 1:
        return None
    return survey.shortener.shorten(strategy.prompt_ratio, survey.reading)


def _is_text(prompt: "Prompt") -> bool:
    """Whether `prompt` is a text or messages; token ids cannot be shortened."""
    return isinstance(prompt, str) or all(isinstance(item, Mapping) for item in prompt)


def _check_levels(tlm: Reader, levels: Sequence[float]) -> None:
    are_equal = len(tlm.levels) == len(levels) and all(
        abs(a - b) <= RATIO_TOLERANCE for a, b in zip(tlm.levels, levels, strict=True)
    )
    if not are_equal:
        theirs, ours = (", ".join(f"{ratio:g}" for ratio in r) for r in (tlm.levels, levels))
        raise BundleError(
            f"the TLM decides among levels {theirs}, but the model has {ours}: "
            "train it for this bundle"
        )
