"""Formats of stored keys and values: what answers lose, how fast they are, what density costs.

quality   the built-in model's answers to the last question of a conversation whose chunks before
          it were compressed and restored: accuracy, and the divergence of its answers' logits
speed     encoding and decoding a cache in the shape of Llama-3.2-1B, chunks of 16, 32 and 64
          tokens, one chunk per call and all in one
probe     what measuring the density costs, as a share of the call that it follows
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from _kv_quality import Outcome, Quality, make_cases
from _report import Report, parser
from _synthetic import LLAMA_1B, LLAMA_QUICK, make_bundle
from pliant.contexts.bits import DEFAULT_AVERAGE_BITS
from pliant.contexts.chunk import BITS, LOSSLESS
from pliant.contexts.codec import ChunkCodec
from pliant.contexts.density import PROBE_TOKENS, head_densities
from pliant.engine.engine import Engine
from pliant.engine.model import load
from pliant.engine.options import EngineOptions
from pliant.engine.span import Span
from pliant.ggml.types import GgmlType

MODELS = Path(__file__).parent / ".models"
CHUNK_TOKENS = 64
CHUNK_SIZES = (16, 32, 64)
CACHE_TOKENS = 2048
PROMPT, ANSWER = 512, 64
Q4 = (GgmlType.Q4_K, GgmlType.Q4_K)


def quality(report: Report, arguments: Namespace) -> None:
    """One row per chunk size and format, and the claims at CHUNK_TOKENS."""
    options = EngineOptions(threads=1, slots=2, context_length=1024)
    with load("pocket", options) as model:
        codec = ChunkCodec(model.engine)
        for chunk_tokens in (CHUNK_TOKENS,) if report.quick else CHUNK_SIZES:
            cases = make_cases(model, arguments.rows, CHUNK_TOKENS, arguments.seed)
            runner = Quality(model, codec, chunk_tokens)
            formats: dict[str, Any] = {str(bits): bits for bits in BITS}
            for average in (6.0, DEFAULT_AVERAGE_BITS, 4.0, 3.5):
                formats[f"mixed {average:g}"] = ("mixed", average)
                formats[f"shuffled {average:g}"] = ("shuffled", average)
            formats["rows in Q4_K"] = Q4
            formats["rows in Q4_0"] = (GgmlType.Q4_0, GgmlType.Q4_0)
            found = runner.run(cases, formats)
            for name, outcomes in found.items():
                report.row(part="quality", chunk_tokens=chunk_tokens, format=name, **row(outcomes))
            if chunk_tokens == CHUNK_TOKENS:
                claim_quality(report, found)
        codec.close()


def row(outcomes: list[Outcome]) -> dict[str, float]:
    return {
        "cases": len(outcomes),
        "bits": mean(o.bits for o in outcomes),
        "accuracy": 100 * mean(o.is_right for o in outcomes),
        "kl": mean(o.kl for o in outcomes),
        "kl_p90": float(np.quantile([o.kl for o in outcomes], 0.9)),
    }


def claim_quality(report: Report, found: dict[str, list[Outcome]]) -> None:
    rows = {name: row(outcomes) for name, outcomes in found.items()}
    lossless, mixed = rows[str(LOSSLESS)], rows[f"mixed {DEFAULT_AVERAGE_BITS:g}"]
    name = f"mixed {DEFAULT_AVERAGE_BITS:g} bits"
    report.at_most(f"{name}: bits per key or value, all included", 4.5, mixed["bits"])
    lost = lossless["accuracy"] - mixed["accuracy"]
    report.at_most(f"{name}: points lost against lossless", 1.0, lost)
    for static in ("4", "rows in Q4_K", "rows in Q4_0"):
        ratio = mixed["kl"] / rows[static]["kl"]
        size = f"{rows[static]['bits']:.3g} bits for all ({static})"
        report.at_most(f"{name}: divergence against {size}", 1.0, ratio)
    shuffled = rows[f"shuffled {DEFAULT_AVERAGE_BITS:g}"]
    ratio = mixed["kl"] / shuffled["kl"]
    report.at_most(f"{name}: divergence against the same bits for heads by chance", 1.0, ratio)
    report.at_most("divergence of 16 bits", 0.0, lossless["kl"])


def speed(report: Report, engine: Engine) -> None:
    """Milliseconds per CACHE_TOKENS tokens, medians of rounds."""
    codec = ChunkCodec(engine)
    a = engine.architecture
    heads = [a.num_kv_heads] * a.num_layers
    shape = engine.kv.rows.shape[1], engine.kv.row_bytes // 2
    values = np.random.default_rng(report.seed).standard_normal(shape, dtype=np.float32)
    engine.kv.rows[:] = values.astype(np.float16).view(np.uint8)
    plain_mib = 2 * a.num_layers * CACHE_TOKENS * engine.kv.row_bytes / 2**20
    for chunk_tokens in CHUNK_SIZES[-1:] if report.quick else CHUNK_SIZES:
        starts = range(0, CACHE_TOKENS, chunk_tokens)
        for bits in BITS:
            begin = time.perf_counter()
            chunks = [(s, codec.encode(0, s, chunk_tokens, heads, bits)) for s in starts]
            encode = time.perf_counter() - begin
            together = timed(lambda c=chunks: codec.decode(1, c, range(len(heads)), heads))
            single = timed(
                lambda c=chunks: [codec.decode(1, [one], range(len(heads)), heads) for one in c]
            )
            report.row(
                part="speed",
                chunk_tokens=chunk_tokens,
                format=str(bits),
                bits=chunks[0][1].format.bits_per_value,
                f16_mib=plain_mib,
                encode_mib_s=plain_mib / encode,
                decode_ms=1000 * together,
                decode_mib_s=plain_mib / together,
                decode_one_by_one_ms=1000 * single,
            )
    codec.close()


def probe(report: Report, engine: Engine) -> None:
    """The call: a prompt of PROMPT tokens and ANSWER single steps."""
    level = engine.bundle.levels[-1]
    tokens = np.random.default_rng(report.seed).integers(0, 8000, PROMPT + ANSWER).tolist()
    steps = ANSWER // 8 if report.quick else ANSWER
    begin = time.perf_counter()
    engine.forward(level, [Span(0, tokens[:PROMPT], 0)])
    prefill = time.perf_counter() - begin
    begin = time.perf_counter()
    for position in range(PROMPT, PROMPT + steps):
        engine.forward(level, [Span(0, [tokens[position]], position)])
    call = prefill + (time.perf_counter() - begin) * ANSWER / steps
    seconds = timed(lambda: head_densities(engine, level, 0, tokens[: PROMPT + steps]))
    report.row(part="probe", queries=PROBE_TOKENS, call_ms=1000 * call, probe_ms=1000 * seconds)
    report.at_most("measuring density, share of a call", 0.1, seconds / call)


def claim_speed(report: Report) -> None:
    rows = [row for row in report.results if row["part"] == "speed"]
    best = {row["format"]: row for row in rows if row["chunk_tokens"] == CHUNK_TOKENS}
    prefill = next(row["call_ms"] for row in report.results if row["part"] == "probe")
    share = best["4"]["decode_ms"] / CACHE_TOKENS * PROMPT / prefill
    report.at_most("decoding 4 bits against computing the same tokens", 0.05, share)


def timed(work: Callable[[], object]) -> float:
    """Seconds, the median of five rounds after one."""
    work()
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return median(times)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--rows", type=int, default=128, help="conversations per app")
    options.add_argument("--only", nargs="*", default=["quality", "speed"])
    arguments = options.parse_args()
    report = Report("kv_formats", seed=arguments.seed, quick=arguments.quick)
    if arguments.quick:
        arguments.rows = 4
    if "quality" in arguments.only:
        quality(report, arguments)
    if "speed" in arguments.only:
        shape = LLAMA_QUICK if arguments.quick else LLAMA_1B
        bundle = make_bundle(MODELS, GgmlType.Q4_K, shape)
        settings = EngineOptions(slots=2, context_length=CACHE_TOKENS)
        engine = Engine(bundle, settings)
        speed(report, engine)
        probe(report, engine)
        claim_speed(report)
        engine.close()
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
