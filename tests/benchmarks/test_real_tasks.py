"""The real requests of the benchmarks: of every set, from all over it, never more than asked."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from _requests import EVALUATION_SETS, real_tasks

INTENT_SETS = ("clinc150", "clinc150_mc8", "snips", "hwu64", "banking77")
CHOICES = ["call", "play", "stop"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with sorted sets, as the converted ones are."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()

    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (tasks / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    rows = [
        {"question": f"request {i}", "choices": CHOICES, "answer_index": i // 100}
        for i in range(300)
    ]
    write("octopus", rows)
    write("llamatouch", [{**row, "app_named_in_question": i < 290} for i, row in enumerate(rows)])
    for name in INTENT_SETS:
        write(name, rows)
    functions = [{"choice": choice, "short_description": "does it"} for choice in CHOICES]
    (tasks / "octopus_functions.json").write_text(json.dumps({"functions": functions}))
    (tasks / "choices.json").write_text("{}")
    return tmp_path


def test_each_set_is_drawn_from_all_over_it(data: Path) -> None:
    found = real_tasks(data, 30, seed=0)
    assert tuple(found) == EVALUATION_SETS
    assert {name: len(scenes) for name, scenes in found.items()} == {
        "octopus": 30,
        "llamatouch": 30,
        "llamatouch_unnamed": 10,
        "intent_real": 30,
    }
    for name in ("octopus", "llamatouch", "intent_real"):
        assert {scene.turns[0].answer for scene in found[name]} == set(CHOICES), name
    assert found == real_tasks(data, 30, seed=0)
    assert found["octopus"] != real_tasks(data, 30, seed=1)["octopus"]


def test_a_folder_without_sets_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no folder `tasks` in it"):
        real_tasks(tmp_path, 1, seed=0)
