"""Memory of the steps that hold a model, measured in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

PROGRAM = """
import sys
from pathlib import Path
import torch
from pliant.elastify.analysis import analyse
from pliant.elastify.calibration import Calibration
from pliant.elastify.export import write_gguf
from pliant.elastify.importance import order_by
from pliant.progress import untracked
from pliant.elastify.reorder import reorder_model
from pliant.elastify.source import load_model, read_config
from pliant.elastify.vocabulary import read_vocabulary
from pliant.elastify.windows import Windows
from pliant.elastify.work import WorkFolder

def resident(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024

def steps(folder, out):
    config = read_config(folder)
    window = Windows(torch.arange(64)[None] + 6, torch.ones(1, 63))
    text = Calibration((window,), "")
    model = load_model(folder)
    analysis = analyse(model, config, text, "taylor", WorkFolder(out, {}), untracked)
    reorder_model(model, config, order_by(analysis.scores))
    write_gguf(model, read_vocabulary(folder, config.vocab_size), out, "Q8_0", "test")

torch.set_num_threads(1)
small, large, out = map(Path, sys.argv[1:])
steps(small, out)  # everything is loaded that a run needs
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
steps(large, out.with_name("large.gguf"))
print(resident("VmHWM") - before)
"""


def make_checkpoint(folder: Path, layers: int, hidden: int) -> int:
    """A bf16 model in shards; returns the bytes of its weights."""
    from support.tiny_hf import make_folder

    make_folder(folder)
    (folder / "model.safetensors").unlink()
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=320,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model = model.to_empty(device="cpu")
    model.tie_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    model.save_pretrained(folder, max_shard_size="30MB")
    return sum(2 * parameter.numel() for parameter in model.parameters())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_peak_is_below_the_checkpoint_and_the_gradients_of_a_layer(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "small", 1, 256)
    layers = 12
    nbytes = make_checkpoint(tmp_path / "large", layers, 768)
    arguments = [str(tmp_path / name) for name in ("small", "large", "small.gguf")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True
    )
    peak = int(done.stdout)
    gradients_of_a_layer = 2 * nbytes / layers  # float32
    # What malloc keeps differs by a few percent from run to run.
    assert nbytes < peak < 1.05 * (1.3 * nbytes + gradients_of_a_layer)
