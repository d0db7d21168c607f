"""Reports to try the page and the JSON with: any that the data classes allow."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from pliant.elastify.report.data import (
    LayerLosses,
    LevelReport,
    PlanLosses,
    RecoveredLevelReport,
    RecoveryReport,
    Report,
    StepTime,
    TaskAccuracy,
    UnitImportance,
)
from pliant.elastify.verify import LevelCheck, Verification

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
HOSTILE = "</title><script>alert('&\"$x_{$</script>"


def any_report() -> st.SearchStrategy[Report]:
    """Of any content, well-formed, but not of one that a run could give."""
    st.register_type_strategy(float, NUMBERS)
    st.register_type_strategy(str, TEXTS)
    return st.from_type(Report)


def small_report(**changes: Any) -> Report:
    """Of a run on two layers and two levels, with everything that a report may have; `changes`
    are fields of it."""
    accuracy = (TaskAccuracy("alarms", 20, 1, 0.5, 0.75),)
    report = Report(
        name="small",
        facts={"family": "llama"},
        perplexity_tokens=128,
        importance=UnitImportance("taylor", ((3.0, 1.0), (2.0, 0.5)), ((9.0, 0.0), (4.0, 1.0)), 64),
        layers=LayerLosses((2.5, 3.5), (1,)),
        plans=PlanLosses("global", {"uniform": {"0.5": 2.0}, "global": {"0.5": 1.9}}),
        levels=(
            LevelReport(0.5, 0.48, 1000, ((1, 2, 32), (2, 2, 64)), 512, 12.0, 9.5, accuracy),
            LevelReport(1.0, 1.0, 2000, ((2, 2, 64),) * 2, None, 8.0, None, accuracy),
        ),
        recovery=RecoveryReport(
            "distill", 8, 3, 2.0,
            (RecoveredLevelReport(0.5, True, 2.5, 2.2, 0.6, (3.0, 2.6, 2.4)),),
        ),
        notes=("levels up to 0.4 cannot be reached",),
        verification=Verification(
            128, 1e-6, (LevelCheck(0.5, 0.01, 0.002, 0.99), LevelCheck(1.0, 0.01, 0.001, 1.0))
        ),
        times=(StepTime("reading", 1.5), StepTime("recovery", 75.0)),
    )  # fmt: skip
    return replace(report, **changes)
