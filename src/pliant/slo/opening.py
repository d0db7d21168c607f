"""Open the orchestrator of a model: its TLM, and what this device was measured to take."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pliant.slo.calibration import CALIBRATION_BUDGET_S
from pliant.slo.online import OnlineLatency
from pliant.slo.orchestrator import Orchestrator
from pliant.slo.store import load_or_calibrate

if TYPE_CHECKING:
    from pliant.engine.model import ElasticModel


def open_orchestrator(
    model: "ElasticModel",
    budget_s: float = CALIBRATION_BUDGET_S,
    *,
    before_calibration: Callable[[float], None] | None = None,
) -> Orchestrator:
    """With the bundle's TLM, if it has one; close it before the model.

    The device is measured as `load_or_calibrate` says. Raises BundleError for a damaged TLM.
    """
    from pliant.tlm.model import TinyModel

    path = model.bundle.tlm_path
    tlm = None if path is None else TinyModel(path, threads=model.engine.threads)
    try:
        base = load_or_calibrate(model, budget_s, tlm=tlm, before_calibration=before_calibration)
        return Orchestrator(model, OnlineLatency(base), tlm)
    except BaseException:
        if tlm is not None:
            tlm.close()
        raise
