"""What can be chosen when a model is made elastic: every option that has a default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pliant.elastify.importance import DEFAULT_IMPORTANCE, check_importance
from pliant.elastify.inputs import WINDOW_TOKENS, WINDOWS
from pliant.elastify.levels import TARGET_RATIOS
from pliant.elastify.plans import DEFAULT_PLANS, check_plan_kind
from pliant.elastify.quantization import check_quantization
from pliant.elastify.recovery.options import Recovery
from pliant.elastify.source import Device, DtypeChoice


@dataclass(frozen=True)
class ElastifyOptions:
    """`quantization` of the bundle's matrices (`quantization.QUANTIZATIONS`). `importance` orders
    the units of a layer (`importance.IMPORTANCES`); `plan` says how widths are shared out among
    layers (`plans.PLAN_KINDS`); `anchors` is the number of anchor layers of uniform plans (None:
    about a fifth). `targets` are the levels' shares of the full model's cost.

    `windows` pieces of `window_tokens` tokens are taken from all over the calibration text.
    `dtype` is what is computed in (`source.choose_dtype`); weights stay in memory as they are
    stored, with the gradients of one layer. With `recovery` every level below the full model gets
    an adapter. `tasks` is a file of questions (see `read_tasks`) for the accuracy that the bundle's
    report shows. `ray` is the address of a Ray cluster ("auto": this machine's) that shares the
    long work.

    Raises ElastifyError for an unknown quantization, importance or plan.
    """

    quantization: str = "Q8_0"
    importance: str = DEFAULT_IMPORTANCE
    plan: str = DEFAULT_PLANS
    anchors: int | None = None
    targets: Sequence[float] = TARGET_RATIOS
    windows: int = WINDOWS
    window_tokens: int = WINDOW_TOKENS
    dtype: DtypeChoice = "auto"
    device: Device = "auto"
    recovery: Recovery | None = None
    tasks: str | Path | None = None
    ray: str | None = None

    def __post_init__(self) -> None:
        check_quantization(self.quantization)
        check_importance(self.importance)
        check_plan_kind(self.plan)

    @property
    def lora_rank(self) -> int:
        """Of the levels' adapters; 0 if they get none."""
        return self.recovery.options.rank if self.recovery else 0


DEFAULTS = ElastifyOptions()
