"""Latency objectives: say how fast (`Slo`), know what it costs (`OnlineLatency`), decide."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pliant.slo.answer import Answer, AnswerStream
    from pliant.slo.calibration import CALIBRATION_BUDGET_S, calibrate
    from pliant.slo.decision import Compression, Decision, Policy
    from pliant.slo.grid import State, Strategy
    from pliant.slo.latency import DecodeCost, EncodeCost, LatencyModel, LevelLatency, PrefillCost
    from pliant.slo.limits import Limits, resolve
    from pliant.slo.online import ErrorReport, Margins, OnlineLatency
    from pliant.slo.opening import open_orchestrator
    from pliant.slo.orchestrator import Orchestrator
    from pliant.slo.reader import Reader
    from pliant.slo.slo import Slo
    from pliant.slo.store import load_or_calibrate

__all__ = [
    "CALIBRATION_BUDGET_S",
    "Answer",
    "AnswerStream",
    "Compression",
    "Decision",
    "DecodeCost",
    "EncodeCost",
    "ErrorReport",
    "LatencyModel",
    "LevelLatency",
    "Limits",
    "Margins",
    "OnlineLatency",
    "Orchestrator",
    "Policy",
    "PrefillCost",
    "Reader",
    "Slo",
    "State",
    "Strategy",
    "calibrate",
    "load_or_calibrate",
    "open_orchestrator",
    "resolve",
]

_MODULES = {
    "CALIBRATION_BUDGET_S": "calibration",
    "Answer": "answer",
    "AnswerStream": "answer",
    "Compression": "decision",
    "Decision": "decision",
    "DecodeCost": "latency",
    "EncodeCost": "latency",
    "ErrorReport": "online",
    "LatencyModel": "latency",
    "LevelLatency": "latency",
    "Limits": "limits",
    "Margins": "online",
    "OnlineLatency": "online",
    "Orchestrator": "orchestrator",
    "Policy": "decision",
    "PrefillCost": "latency",
    "Reader": "reader",
    "Slo": "slo",
    "State": "grid",
    "Strategy": "grid",
    "calibrate": "calibration",
    "load_or_calibrate": "store",
    "open_orchestrator": "opening",
    "resolve": "limits",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
