"""Open the orchestrator of a model: its TLM, and what this device was measured to take."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pliant.slo.calibration import CALIBRATION_BUDGET_S
from pliant.slo.encoding import sample_prompt
from pliant.slo.online import OnlineLatency
from pliant.slo.orchestrator import Orchestrator
from pliant.slo.slo import Slo
from pliant.slo.store import load_or_calibrate

if TYPE_CHECKING:
    from pliant.engine.model import ElasticModel

_WARM_UP_MS = 500.0
_WARM_UP_WORDS = 40
_WARM_UP_SLO = Slo(0.3, 0.5)


def open_orchestrator(
    model: "ElasticModel",
    budget_s: float = CALIBRATION_BUDGET_S,
    *,
    before_calibration: Callable[[float], None] | None = None,
) -> Orchestrator:
    """With the bundle's TLM, if it has one; close it before the model.

    The device is measured as `load_or_calibrate` says, and a quick model is warmed up. Raises
    BundleError for a damaged TLM.
    """
    from pliant.tlm.model import TinyModel

    path = model.bundle.tlm_path
    tlm = None if path is None else TinyModel(path, threads=model.engine.threads)
    try:
        base = load_or_calibrate(model, budget_s, tlm=tlm, before_calibration=before_calibration)
        orchestrator = Orchestrator(model, OnlineLatency(base), tlm)
        _warm_up(orchestrator)
        return orchestrator
    except BaseException:
        if tlm is not None:
            tlm.close()
        raise


def _warm_up(orchestrator: Orchestrator) -> None:
    """Decide and answer once at every level, where that is quick: the first request would read
    adapters and weights, and fill caches, while its time runs."""
    model, base = orchestrator.model, orchestrator.latency.base
    prompt = sample_prompt(model, min(_WARM_UP_WORDS, model.engine.context_length // 4))
    num_tokens = model.count_tokens(prompt)
    if sum(base.predict_ttft(ratio, num_tokens) for ratio in base.ratios) > _WARM_UP_MS:
        return
    for ratio in base.ratios:
        orchestrator.survey(prompt, _WARM_UP_SLO, max_tokens=2)
        model.generate(prompt, level=ratio, max_tokens=2)
