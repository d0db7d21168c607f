"""The recipe of pocket's TLM: labels of generated prompts, first weights, a short run."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pliant.bundle import open_bundle
from pliant.tlm.labels.rows import read_decision_rows
from pliant.tlm.model import TinyModel
from pliant.tlm.training.build import Shape, fresh_network
from pocket.generate import make_scene
from pocket.kept_words import ANSWER, OTHER, TITLE, context_labels
from pocket.scene import APPS, Scene, Turn
from pocket.tlm_start import start_from

RECIPE = Path(__file__).parents[2] / "models" / "pocket" / "train_tlm.py"


def labelled(context: str, answer: str) -> dict[str, list[float]]:
    scene = Scene("setting", context, (Turn("What?", answer, (answer, "other")),))
    found: dict[str, list[float]] = {}
    for start, end, keep in context_labels(scene):
        found.setdefault(context[start:end], []).append(keep)
    return found


def test_the_answers_line_is_kept() -> None:
    found = labelled("Settings:\nWi-Fi: Off\nNight light: On\nNightly: no", "Night light")
    assert found["Settings:"] == [TITLE]
    assert found["Wi-Fi:"] == found["Off"] == found["Nightly:"] == [OTHER]
    assert found["Night"] == found["light:"] == [ANSWER]
    assert OTHER < found["On"][0] < ANSWER


def test_a_change_keeps_the_setting_it_is_about() -> None:
    found = labelled("Settings:\nVolume: 35%\nAlarm volume: 75%", "Alarm volume=50%")
    assert found["35%"] == [OTHER]
    assert found["Alarm"] == found["volume:"] == [ANSWER]


@pytest.mark.parametrize("app", APPS)
def test_every_word_of_a_generated_context_is_labelled(app: str) -> None:
    rng = random.Random(app)
    for _ in range(20):
        scene = make_scene(app, rng, 2, 1, held_out=False)
        spans = context_labels(scene)
        assert [scene.context[start:end] for start, end, _ in spans] == scene.context.split()


def test_training_starts_from_like_and_near_words() -> None:
    torch.set_num_threads(1)
    bundle = open_bundle("pocket")
    network = fresh_network(bundle, Shape(window=64))
    start_from(network, bundle)
    tokens = network.vocabulary.tokenizer(" wifi on the table, wifi off").ids
    same = [index for index, token in enumerate(tokens) if token == tokens[0]]
    x = network.embd_norm(
        network.token_embd(torch.tensor(tokens)) + network.position_embd.weight[: len(tokens)]
    )
    size = network.config.hidden_size
    queries, keys, _ = network.trunk[0].attn_qkv(x).split(size, dim=-1)  # type: ignore[operator]
    alike, near = (
        (queries[:, part] @ keys[:, part].T)[0]
        for part in (slice(0, size // 2), slice(size // 2, size))
    )
    assert sorted(alike.topk(len(same)).indices.tolist()) == same
    assert near.argmax() == 0
    assert near[1] > near[-1]


@pytest.mark.slow
def test_a_short_run(tmp_path: Path) -> None:
    bundle = tmp_path / "pocket"
    shutil.copytree(open_bundle("pocket").path, bundle)
    work = tmp_path / "work"
    command = [sys.executable, str(RECIPE), "--bundle", str(bundle), "--out", str(work)]
    command += ["--generated", "32", "--saliency", "2", "--decisions", "2"]
    for _ in range(2):  # the second time everything is there
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert Path(done.stdout.strip()) == bundle / "tlm.gguf"
    assert len(list(read_decision_rows(work / "decision.jsonl"))) == 2
    with TinyModel(bundle / "tlm.gguf") as tlm:
        assert len(tlm.read("Turn on the light", 0.5, 0.5).levels) == 9
