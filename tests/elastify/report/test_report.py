"""The report of a real run: its numbers against computations of their own."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pliant.bundle import check, open_bundle, write_bundle
from pliant.elastify import ElastifyOptions, elastify
from pliant.elastify.calibration import read_calibration
from pliant.elastify.recovery.options import Recovery, RecoveryOptions
from pliant.elastify.report.collect import NEURON_BINS
from pliant.elastify.report.data import Report, read_report
from pliant.elastify.source import load_tokenizer
from pliant.elastify.windows import joined
from pliant.errors import BundleError, LabelError
from support.tiny_gguf import CORPUS
from support.tiny_hf import make_folder

WINDOWS, WINDOW_TOKENS, STEPS = 4, 48, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source model, the texts, and the bundle that was made of them."""
    folder = tmp_path_factory.mktemp("report")
    make_folder(folder / "hf", num_hidden_layers=3, intermediate_size=256)
    (folder / "calibration.txt").write_text("".join(CORPUS) * 10, encoding="utf-8")
    rows = [{"prompt": line, "answer": line} for line in CORPUS * 2]
    questions = [{"question": q, "choices": ["on", "off"], "answer_index": 0} for q in CORPUS[:5]]
    for name, lines in (("data.jsonl", rows), ("tasks.jsonl", questions)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / name).write_text(text, encoding="utf-8")
    training = RecoveryOptions(rank=4, loss="lm", steps=STEPS, batch_tokens=128, learning_rate=1e-2)
    elastify(
        folder / "hf",
        folder / "bundle",
        calibration=folder / "calibration.txt",
        options=ElastifyOptions(
            quantization="F16",
            targets=(0.6,),
            windows=WINDOWS,
            window_tokens=WINDOW_TOKENS,
            recovery=Recovery(folder / "data.jsonl", training),
            tasks=folder / "tasks.jsonl",
        ),
    )
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return read_report(folder / "bundle" / "report.json")


@torch.no_grad()
def test_the_full_models_perplexity_is_that_of_transformers(folder: Path, report: Report) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)
    tokenizer = load_tokenizer(folder / "hf")
    text = read_calibration(folder / "calibration.txt", tokenizer, WINDOWS, WINDOW_TOKENS)
    windows = joined(text.batches).tokens
    losses = [float(model(input_ids=one[None], labels=one[None]).loss) for one in windows]
    assert report.perplexity_tokens == windows.numel()
    full = report.levels[-1]
    assert math.log(full.bare_perplexity) == pytest.approx(np.mean(losses), abs=5e-3)
    assert full.recovered_perplexity is None


def test_the_report_and_the_manifest_agree(folder: Path, report: Report) -> None:
    told = json.loads((folder / "bundle" / "pliant.json").read_text())
    assert report.name == told["name"]
    assert report.layers.anchors == tuple(told["provenance"]["anchors"])
    assert report.recovery is not None
    [trained] = report.recovery.levels
    assert len(trained.training_losses) == STEPS
    small, _ = report.levels
    [stated, _] = told["levels"]
    assert (small.ratio, small.cost) == (stated["ratio"], stated["cost"])
    assert [list(layer) for layer in small.plan] == stated["plan"]
    assert trained.adapter
    assert small.adapter_bytes == told["files"][stated["adapter"]]["bytes"]
    assert small.recovered_perplexity is not None
    assert small.recovered_perplexity < small.bare_perplexity
    [accuracy] = small.accuracy
    assert accuracy.questions == 5
    assert accuracy.recovered is not None


def test_importance_falls_inside_every_layer(report: Report) -> None:
    importance = report.importance
    assert np.shape(importance.heads) == (3, 4)
    assert np.shape(importance.neurons) == (3, NEURON_BINS)
    for rows in (importance.heads, importance.neurons):
        assert (np.diff(rows, axis=1) <= 0).all()


def test_every_step_took_time(report: Report) -> None:
    assert all(step.seconds > 0 for step in report.times)
    assert "recovery" in {step.step for step in report.times}


def test_the_files_are_part_of_the_bundle(folder: Path) -> None:
    bundle = open_bundle(folder / "bundle")
    assert check(bundle) == []
    page = bundle.path / "report.html"
    whole = page.read_bytes()
    page.write_bytes(whole[:-1])
    assert [finding.file for finding in check(bundle)] == ["report.html"]
    page.unlink()
    assert [finding.problem for finding in check(bundle)] == ["missing"]
    open_bundle(folder / "bundle")
    page.write_bytes(whole)


def test_tasks_are_read_before_any_work(folder: Path) -> None:
    (folder / "wrong.jsonl").write_text("{}\n")
    options = ElastifyOptions(tasks=folder / "wrong.jsonl")
    with pytest.raises(LabelError, match=r"wrong\.jsonl, line 1"):
        elastify(
            folder / "hf", folder / "other", calibration=folder / "nowhere.txt", options=options
        )


def test_a_bundle_takes_no_other_documents(folder: Path) -> None:
    bundle = open_bundle(folder / "bundle" / "model.gguf")
    with pytest.raises(BundleError, match=r"a report is report\.html and report\.json"):
        write_bundle(
            folder / "odd", bundle.gguf.path, bundle.levels, {}, report={"x.html": folder / "x"}
        )
