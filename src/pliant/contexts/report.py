"""What a call of a context took, how its level was chosen, and where its history came from."""

from dataclasses import dataclass

from pliant.contexts.restore import RestoreReport
from pliant.slo.decision import Decision


@dataclass(frozen=True)
class CallReport:
    """A finished call; `ttft_ms` counts from when it came, `tpot_ms` is None with fewer than two
    tokens.

    `decision` has what was predicted and why the level was taken; None for a call without an SLO
    as long as nothing was measured on this device. Of the history's tokens `from_slot` were still
    in memory as they are computed with, `restored` says what was brought back, and `computed`
    counts all others: what the restore computed again and what was computed with the prompt.
    """

    level: float
    ttft_ms: float
    tpot_ms: float | None
    decision: Decision | None
    restored: RestoreReport
    from_slot: int
    computed: int

    @property
    def context_tokens(self) -> int:
        """Tokens of the history that the call went on from, but for the last."""
        restored = self.restored
        return self.from_slot + restored.from_memory + restored.from_disk + self.computed

    @property
    def why(self) -> str:
        """Why this level."""
        return "no SLO was given" if self.decision is None else self.decision.why

    @property
    def predicted_ttft_ms(self) -> float | None:
        return None if self.decision is None else self.decision.strategy.predicted_ttft_ms

    @property
    def predicted_tpot_ms(self) -> float | None:
        return None if self.decision is None else self.decision.strategy.predicted_tpot_ms

    @property
    def is_slo_met(self) -> bool:
        return self.decision is None or self.decision.limits.met_by(self.ttft_ms, self.tpot_ms)
