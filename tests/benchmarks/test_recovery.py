import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from support.tiny_gguf import CORPUS
from support.tiny_hf import make_folder

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "recovery.py"


def test_prints_a_table_and_writes_every_claim(tmp_path: Path) -> None:
    model = make_folder(tmp_path / "model", num_hidden_layers=2, intermediate_size=512)
    calibration, data = tmp_path / "calibration.txt", tmp_path / "data.jsonl"
    calibration.write_text("".join(CORPUS), encoding="utf-8")
    rows = [{"prompt": line, "answer": line} for line in CORPUS * 4]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run(
        [sys.executable, SCRIPT, model, "--calibration", calibration, "--data", data]
        + ["--quick", "--threads", "1", "--json", tmp_path / "out.json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "global, distill" in done.stdout
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["benchmark"] == "recovery"
    *recipes, full = document["results"]
    assert [row["level"] for row in recipes] == [0.5] * 6
    assert full["level"] == 1.0
    assert {row["recipe"] for row in recipes} >= {"global, distill", "paper", "pruner"}
    assert all({"bare", "recovered", "gap", "gap_closed"} <= row.keys() for row in recipes)
    assert len(document["claims"]) == 7
