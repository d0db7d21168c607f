"""What is said before anything is computed."""

import json
from pathlib import Path

import pytest

from pliant.elastify import ElastifyOptions, estimate, forecast
from pliant.elastify.recovery.options import Recovery
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


@pytest.mark.parametrize(
    "options", [{"quantization": "Q3_K"}, {"importance": "weights"}, {"plan": "deep"}]
)
def test_unknown_choices_are_named(options: dict[str, str]) -> None:
    (value,) = options.values()
    with pytest.raises(ElastifyError, match=f"{value!r}.* is not one of"):
        ElastifyOptions(**options)  # type: ignore[arg-type]
