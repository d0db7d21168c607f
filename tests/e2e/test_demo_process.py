"""`pliant demo` as a process of its own, on a small random model."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from pliant.cli.demo_requests import APPS
from support.tiny_bundle import make_tiny_bundle

PLIANT = str(Path(sys.executable).with_name("pliant"))


def _demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PLIANT_CACHE": str(folder / "cache")}
    command = [PLIANT, "demo", "--bundle", str(folder / "tiny"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def _write_requests(path: Path) -> str:
    rows: list[dict[str, Any]] = [
        {
            "app": app,
            "messages": [{"role": "user", "content": f"{app} {'word ' * 10 * index}"}],
            "choices": ["yes", "no"],
            "answer": "yes",
            "answer_index": 0,
        }
        for app in APPS
        for index in range(6)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_json_then_table(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path / "tiny")
    requests = _write_requests(tmp_path / "requests.jsonl")
    first = _demo(tmp_path, "--requests", requests, "--json")
    second = _demo(tmp_path, "--requests", requests)
    assert "measuring this device" in first.stderr
    assert "SLO attainment" in second.stdout
    document = json.loads(first.stdout)
    assert len(document["requests"]) == 36
    full = [row for row in document["requests"] if row["app"] == "notification"]
    assert all(row["level"] == 1.0 and row["slo_met"] for row in full)
    for row in document["requests"]:
        assert row["ttft_ms"] > 0 and row["predicted_ttft_ms"] > 0
        assert row["level"] in (0.3, 0.5, 1.0) and row["prompt_ratio"] == 1.0
