"""What is said before anything is computed."""

import json
from pathlib import Path

import pytest

from pliant.elastify import ElastifyOptions, estimate, forecast
from pliant.elastify.recovery.options import Recovery, RecoveryOptions
from pliant.elastify.source import load_tokenizer
from pliant.errors import ElastifyError
from support.tiny_hf import make_folder

STEP = "perplexity and accuracy of the levels"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(estimate, "_multiply_adds_per_second", lambda *_: 1e6)
    return make_folder(tmp_path / "source", intermediate_size=256)


def test_the_report_takes_the_time_of_its_tokens(source: Path, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    row = {"question": "Is the wifi on?", "choices": ["yes", "no"], "answer_index": 0}
    tasks.write_text(f"{json.dumps(row)}\n" * 7)
    tokenizer = load_tokenizer(source)
    texts = [row["question"], "yes", "no"]
    asked = 7 * sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    options = ElastifyOptions(windows=4, window_tokens=48)
    plain = forecast(source, tmp_path / "b", options)
    tested = forecast(
        source, tmp_path / "b", ElastifyOptions(windows=4, window_tokens=48, tasks=tasks)
    )
    recovered = forecast(
        source,
        tmp_path / "b",
        ElastifyOptions(windows=4, window_tokens=48, recovery=Recovery(tasks)),
    )
    ratio = tested.seconds[STEP] / plain.seconds[STEP]
    assert ratio == pytest.approx((4 * 48 + asked) / (4 * 48))
    costs = [level.cost for level in recovered.levels]
    cost = plain.seconds[STEP] / sum(level.cost for level in plain.levels)
    assert recovered.seconds[STEP] == pytest.approx(cost * (sum(costs) + sum(costs[:-1])))


def test_recovery_takes_memory_and_adapters_have_a_size(source: Path, tmp_path: Path) -> None:
    """A step holds two models' logits; the full level has no adapter."""
    data = tmp_path / "data.jsonl"
    found = {
        rank: forecast(
            source,
            tmp_path / "b",
            ElastifyOptions(targets=(0.8,), recovery=Recovery(data, RecoveryOptions(rank=rank))),
        )
        for rank in (8, 16)
    }
    plain = forecast(source, tmp_path / "b", ElastifyOptions(targets=(0.8,)))
    logits = 4 * RecoveryOptions().batch_tokens * 320
    for rank, recovered in found.items():
        assert recovered.memory_bytes > plain.memory_bytes + 2 * logits
        assert recovered.levels[0].cost <= 0.8
        assert recovered.levels[-1].cost == 1.0
        # Of three layers 64 wide with 8 query and at most 4 KV heads of 8, and 256 neurons.
        most = 3 * rank * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 256))
        added = recovered.bundle_bytes - plain.bundle_bytes
        assert 0.5 * most < added < most * 34 / 32


@pytest.mark.parametrize(
    "options", [{"quantization": "Q3_K"}, {"importance": "weights"}, {"plan": "deep"}]
)
def test_unknown_choices_are_named(options: dict[str, str]) -> None:
    (value,) = options.values()
    with pytest.raises(ElastifyError, match=f"{value!r}.* is not one of"):
        ElastifyOptions(**options)  # type: ignore[arg-type]
