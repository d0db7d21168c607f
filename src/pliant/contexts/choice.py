"""Which level answers a call of a context: what an orchestrator decides, and learns from calls."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pliant.contexts.restore import RestoreReport
from pliant.engine.generate import Generation
from pliant.engine.model import ElasticModel
from pliant.slo.decision import Decision, Policy
from pliant.slo.grid import State
from pliant.slo.latency import LatencyModel
from pliant.slo.opening import open_orchestrator
from pliant.slo.orchestrator import Orchestrator
from pliant.slo.slo import Slo


@dataclass(frozen=True)
class Waiting:
    """A call before its level is known: `tokens` are to be computed behind `context_tokens` that
    are restored in `restore_ms` (by level); `elapsed_ms` have passed since it came."""

    tokens: Sequence[int]
    context_tokens: int
    restore_ms: Mapping[float, float]
    elapsed_ms: float


class Chooser:
    """The orchestrator of a model's contexts; None until one is given or opened.

    Prompts stay whole: what a context has answered before must still be there.
    """

    def __init__(
        self,
        model: ElasticModel,
        orchestrator: Orchestrator | None,
        *,
        when_opened: Callable[[LatencyModel], None],
        before_calibration: Callable[[float], None] | None,
    ) -> None:
        self.orchestrator = orchestrator
        self._model = model
        self._when_opened = when_opened
        self._before_calibration = before_calibration
        self._is_own = False
        self._lock = threading.Lock()

    def open(self) -> Orchestrator:
        """Opened when it is first asked for: the device is measured then, unless it was before."""
        with self._lock:
            if self.orchestrator is None:
                opened = open_orchestrator(self._model, before_calibration=self._before_calibration)
                self._is_own = True
                self._when_opened(opened.latency.base)
                self.orchestrator = opened
            return self.orchestrator

    def close(self) -> None:
        """Idempotent; an orchestrator that was given stays open."""
        if self._is_own and self.orchestrator is not None:
            self.orchestrator.close()

    def decide(
        self, call: Waiting, slo: Slo | None, level: float, max_tokens: int, policy: Policy
    ) -> Decision | None:
        """For the `slo`, else what `level` is predicted to take; that is None without an
        orchestrator. Raises as `Orchestrator.decide`."""
        if slo is None and self.orchestrator is None:
            return None
        orchestrator = self.open()
        # What encoding takes is part of every prediction, and has passed already.
        encoding_ms = orchestrator.latency.base.encoding.ms(len(call.tokens))
        return orchestrator.decide(
            call.tokens,
            slo or Slo(),
            max_tokens=max_tokens,
            state=State(
                call.context_tokens,
                queue_ms=max(0.0, call.elapsed_ms - encoding_ms),
                restore_ms=call.restore_ms.__getitem__,
            ),
            policy=policy,
            level=level if slo is None else None,
        )

    def observe(
        self,
        decision: Decision,
        generation: Generation,
        restored: RestoreReport,
        computed: Sequence[int],
        prefill_ms: float,
    ) -> None:
        """Learn from a call, whose restore took what it took and whose tokens `computed` then
        took `prefill_ms`."""
        orchestrator = self.open()
        latency = orchestrator.latency
        latency.observe_restore(generation.level, restored.predicted_ms, restored.ms)
        start = generation.prompt_tokens - len(computed)
        encoding_ms = latency.base.encoding.ms(len(computed))
        done = replace(
            decision,
            tokens=computed,
            work=replace(decision.work, prompt_tokens=len(computed), state=State(start)),
            decide_ms=0.0,
        )
        orchestrator.observe(done, replace(generation, ttft_ms=encoding_ms + prefill_ms))
