import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from support.tiny_gguf import CORPUS
from support.tiny_hf import make_folder

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "plans.py"


def test_prints_a_table_and_writes_every_claim(tmp_path: Path) -> None:
    model = make_folder(tmp_path / "model", num_hidden_layers=2, intermediate_size=512)
    calibration = tmp_path / "calibration.txt"
    calibration.write_text("".join(CORPUS), encoding="utf-8")
    question = {
        "messages": [{"role": "user", "content": "Turn on the wifi"}],
        "choices": ["wifi", "bluetooth, please", "alarm"],
        "answer_index": 0,
    }
    rows = tmp_path / "eval.jsonl"
    rows.write_text((json.dumps(question) + "\n") * 3)
    done = subprocess.run(
        [sys.executable, SCRIPT, model, "--calibration", calibration, "--eval", rows]
        + ["--quick", "--threads", "1", "--json", tmp_path / "out.json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "perplexity" in done.stdout
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["benchmark"] == "plans"
    assert document["machine"]["cores"] >= 1
    found = {(row["importance"], row["plan"]) for row in document["results"]}
    names = {"taylor", "fisher", "activation", "magnitude", "random 0"}
    kinds = {(name, plan) for name in names for plan in ("uniform", "global")}
    assert found == {("(whole model)", ""), *kinds}
    levels = {row["level"] for row in document["results"]} - {1.0}
    assert len(document["claims"]) == 6 * len(levels) > 0
    assert set(document["claims"][0]) == {"name", "goal", "measured", "met"}
