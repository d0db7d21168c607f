"""Latency objectives: say how fast (`Slo`), know what it costs (`LatencyModel`), `choose`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pliant.slo.calibration import CALIBRATION_BUDGET_S, calibrate
    from pliant.slo.latency import DecodeCost, EncodeCost, LatencyModel, LevelLatency, PrefillCost
    from pliant.slo.slo import Slo
    from pliant.slo.store import load_or_calibrate
    from pliant.slo.strategy import SAFETY_MARGIN, Limits, Strategy, choose, resolve

__all__ = [
    "CALIBRATION_BUDGET_S",
    "SAFETY_MARGIN",
    "DecodeCost",
    "LatencyModel",
    "LevelLatency",
    "Limits",
    "EncodeCost",
    "PrefillCost",
    "Slo",
    "Strategy",
    "calibrate",
    "choose",
    "load_or_calibrate",
    "resolve",
]

_MODULES = {
    "CALIBRATION_BUDGET_S": "calibration",
    "SAFETY_MARGIN": "strategy",
    "DecodeCost": "latency",
    "LatencyModel": "latency",
    "LevelLatency": "latency",
    "Limits": "strategy",
    "EncodeCost": "latency",
    "PrefillCost": "latency",
    "Slo": "slo",
    "Strategy": "strategy",
    "calibrate": "calibration",
    "choose": "strategy",
    "load_or_calibrate": "store",
    "resolve": "strategy",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
