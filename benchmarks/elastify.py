"""What making a model elastic takes: minutes and memory for a checkpoint of one billion weights.

Makes a random checkpoint of Llama-3.2-1B's shape in bfloat16 shards, starts `pliant.elastify` on
it in a process of its own, kills that in the middle of the export, and lets a second process go
on. Time is that of both, memory the larger peak.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from _report import Report, parser
from pliant.elastify.inputs import WINDOWS

SHAPES: dict[str, dict[str, Any]] = {
    "Llama-3.2-1B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
    },
    "small": {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "vocab_size": 2048,
    },
}
QUICK_WINDOWS = 4
GIB = 1 << 30
SHARD_BYTES = GIB
ROOT = Path(__file__).parents[1]
# Prints one JSON document: seconds by step, peak of resident memory. Given a step, it ends as by
# kill -9 before the step's last item, after printing.
PROGRAM = """
import json, os, resource, signal, sys, time
source, out, calibration, quantization, windows, last = sys.argv[1:]
began, seconds = time.perf_counter(), {}
from pliant.elastify import ElastifyOptions, elastify

def say():
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    whole = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "whole": whole, "peak": peak}), flush=True)

def track(items, what, total):
    start = time.perf_counter()
    for index, item in enumerate(items):
        if what == last and index == total - 1:
            say()
            os.kill(os.getpid(), signal.SIGKILL)
        yield item
        seconds[what] = time.perf_counter() - start

options = ElastifyOptions(quantization=quantization, windows=int(windows))
elastify(source, out, calibration=calibration, options=options, track=track)
say()
"""


def make_checkpoint(folder: Path, shape: dict[str, Any], seed: int) -> int:
    """Writes the model shard by shard, so that it is never whole in memory; returns its bytes."""
    config = LlamaConfig(**shape, tie_word_embeddings=True, rope_theta=5e5, dtype="bfloat16")
    config.save_pretrained(folder)
    with torch.device("meta"):
        parameters = dict(LlamaForCausalLM(config).named_parameters())
    torch.manual_seed(seed)
    shard: dict[str, torch.Tensor] = {}
    weight_map: dict[str, str] = {}
    nbytes = 0
    for index, (name, parameter) in enumerate(parameters.items()):
        is_norm = parameter.ndim == 1
        values = torch.ones(parameter.shape) if is_norm else torch.randn(parameter.shape) * 0.03
        shard[name] = values.to(torch.bfloat16)
        nbytes += 2 * parameter.numel()
        is_full = sum(2 * one.numel() for one in shard.values()) > SHARD_BYTES
        if is_full or index == len(parameters) - 1:
            file = f"model-{index:05d}.safetensors"
            save_file(shard, folder / file, {"format": "pt"})
            weight_map |= dict.fromkeys(shard, file)
            shard = {}
    index_text = json.dumps({"metadata": {"total_size": nbytes}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index_text)
    return nbytes


def make_tokenizer(folder: Path, text: str) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def run(arguments: list[str], last: str) -> dict[str, Any]:
    """One process; `last` is the step in which it is killed, or empty."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments, last], stdout=subprocess.PIPE, text=True
    )
    expected = -signal.SIGKILL if last else 0
    if done.returncode != expected:
        raise SystemExit(f"elastify ended with {done.returncode}, not {expected}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(report: Report, folder: Path, name: str, quantization: str) -> None:
    text = "".join(path.read_text("utf-8") for path in sorted(ROOT.glob("**/*.md")))
    calibration = folder / "calibration.txt"
    calibration.write_text(text, encoding="utf-8")
    start = time.perf_counter()
    nbytes = make_checkpoint(folder / "source", SHAPES[name], report.seed)
    make_tokenizer(folder / "source", text)
    made = time.perf_counter() - start
    print(f"made {nbytes / GIB:.2f} GiB in {made:.0f} s", file=sys.stderr)
    paths = [str(path) for path in (folder / "source", folder / "out", calibration)]
    arguments = [*paths, quantization, str(QUICK_WINDOWS if report.quick else WINDOWS)]
    killed = run(arguments, "export")
    resumed = run(arguments, "")
    for run_name, result in (("killed in export", killed), ("resumed", resumed)):
        for step, seconds in result["seconds"].items():
            report.row(run=run_name, step=step, seconds=seconds)
        report.row(run=run_name, step="all", seconds=result["whole"], peak_gib=result["peak"] / GIB)
    repeated = set(resumed["seconds"]) & {"activations", "anchor layers", "importance of units"}
    whole = (killed["whole"] + resumed["whole"]) / 60
    peak = max(killed["peak"], resumed["peak"])
    report.at_most(f"minutes to elastify a {name} checkpoint", 15.0, whole)
    report.at_most("peak of memory, GiB", 12.0, peak / GIB)
    if name != "small":
        layer = SHAPES[name]["hidden_size"] * SHAPES[name]["intermediate_size"] * 3
        allowed = 1.3 * nbytes + 4 * layer
        report.at_most(
            "peak over 1.3 times the checkpoint and the gradients of a layer", 1.0, peak / allowed
        )
    report.at_most("finished steps that were repeated after the kill", 0, len(repeated))


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--quantization", default="Q4_K")
    options.add_argument("--folder", type=Path, help="where there is room (default: temporary)")
    arguments = options.parse_args()
    report = Report("elastify", seed=arguments.seed, quick=arguments.quick)
    name = "small" if arguments.quick else "Llama-3.2-1B"
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        (Path(folder) / "source").mkdir()
        measure(report, Path(folder), name, arguments.quantization)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
