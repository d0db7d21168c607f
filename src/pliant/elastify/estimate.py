"""What making a model elastic will give and take, before anything is computed or written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from pathlib import Path

import torch

from pliant.bundle import Architecture, GgufFile, Level, Plan
from pliant.bundle.cost import cost_ratio, per_token_cost
from pliant.elastify.allocation import STAGE
from pliant.elastify.analysis import ANCHOR_TOKENS, IMPORTANCE_TOKENS
from pliant.elastify.anchors import default_anchor_count
from pliant.elastify.inputs import Source, check_source, replacement_notes
from pliant.elastify.levels import choose_levels
from pliant.elastify.options import DEFAULTS, ElastifyOptions
from pliant.elastify.plans import plan_tokens
from pliant.elastify.quantization import check_quantization, column_blocks, encode
from pliant.elastify.recovery.fitting import FIT_TOKENS
from pliant.elastify.recovery.levels import ADAPTER_QUANTIZATION
from pliant.elastify.recovery.options import RecoveryOptions
from pliant.elastify.report.measure import PERPLEXITY_TOKENS
from pliant.elastify.report.tasks import read_tasks
from pliant.elastify.source import Dtype, choose_device, choose_dtype
from pliant.elastify.steps import weightless_gguf
from pliant.elastify.verify import sample_length
from pliant.ggml.types import GgmlType, row_size

# Python with torch and transformers loaded.
_PROGRAM_BYTES = 500 << 20
_READ_BYTES_PER_SECOND = 0.5e9
_MEASURED_SECONDS = 0.2
_SAMPLE_ROWS, _SAMPLE_COLUMNS = 1024, 1024


@dataclass(frozen=True)
class LevelForecast:
    """`parameters` and `nbytes` are those that the level uses, embeddings included."""

    ratio: float
    cost: float
    parameters: int
    nbytes: int


@dataclass(frozen=True)
class Forecast:
    """Bytes of the finished bundle, and at most of memory and of disk meanwhile; seconds by
    step, on this machine's CPU as fast as it is now."""

    levels: tuple[LevelForecast, ...]
    notes: tuple[str, ...]
    bundle_bytes: int
    memory_bytes: int
    disk_bytes: int
    seconds: dict[str, float]


def forecast(hf_dir: str | Path, out: str | Path, options: ElastifyOptions = DEFAULTS) -> Forecast:
    """The same checks as `elastify` makes before it reads weights, and estimates.

    Which layers are anchors does not change the sizes; how many, does. Sizes are those of
    uniform plans. Raises as `elastify`.
    """
    out = Path(out).absolute()
    source = check_source(Path(hf_dir), out)
    quantization = options.quantization
    architecture, bundle_bytes = _exported(source, quantization)
    count = options.anchors
    if count is None:
        count = default_anchor_count(architecture.num_layers)
    block, ff_block = column_blocks(architecture, quantization)
    choice = choose_levels(
        architecture,
        range(count),
        targets=options.targets,
        block=block,
        ff_block=ff_block,
        lora_rank=options.lora_rank,
    )
    chosen = tuple(_adapted(architecture, level, options.lora_rank) for level in choice.levels)
    bytes_each = bundle_bytes / _parameters(architecture, Plan.full(architecture))
    levels = tuple(
        LevelForecast(level.ratio, level.cost, size, round(size * bytes_each))
        for level in chosen
        for size in [_parameters(architecture, level.plan)]
    )
    adapters = sum(_adapter(architecture, level.plan, options.lora_rank) for level in chosen[:-1])
    bundle_bytes += row_size(GgmlType[ADAPTER_QUANTIZATION], adapters)
    sample = sample_length(architecture.vocab_size)
    logits_bytes = 4 * sample * architecture.vocab_size
    return Forecast(
        levels=levels,
        notes=(*choice.notes, *replacement_notes(out)),
        bundle_bytes=bundle_bytes,
        memory_bytes=_memory(source, architecture, chosen, options),
        disk_bytes=2 * bundle_bytes + len(levels) * logits_bytes,
        seconds=_seconds(source, architecture, chosen, options, sample),
    )


def _dtype(source: Source, options: ElastifyOptions) -> Dtype:
    return choose_dtype(options.dtype, source.tensors, choose_device(options.device))


def _exported(source: Source, quantization: str) -> tuple[Architecture, int]:
    """Architecture and size of the GGUF."""
    with weightless_gguf(source, quantization) as path:
        return Architecture.from_gguf(GgufFile.open(path)), path.stat().st_size


def _parameters(architecture: Architecture, plan: Plan) -> int:
    matrices = 1 if architecture.tied_embeddings else 2
    return matrices * _head(architecture) + _layers(architecture, plan)


def _head(architecture: Architecture) -> int:
    return architecture.hidden_size * architecture.vocab_size


def _layers(architecture: Architecture, plan: Plan) -> int:
    columns = (
        2 * (layer.heads + layer.kv_heads) * architecture.head_dim + 3 * layer.ff
        for layer in plan.layers
    )
    return architecture.hidden_size * sum(columns)


def _adapted(architecture: Architecture, level: Level, rank: int) -> Level:
    """The level at its cost with an adapter; the full model has none."""
    if level.ratio == 1.0:
        return level
    return replace(level, cost=cost_ratio(architecture, level.plan, lora_rank=rank))


def _adapter(architecture: Architecture, plan: Plan, rank: int) -> int:
    """Values in the factors of an adapter: each is one multiply-add per token."""
    adapted = per_token_cost(architecture, plan, lora_rank=rank)
    return adapted - per_token_cost(architecture, plan)


def _memory(
    source: Source, architecture: Architecture, levels: Sequence[Level], options: ElastifyOptions
) -> int:
    if _dtype(source, options) == "bf16":
        stored = sum(2 * prod(tensor.shape) for tensor in source.tensors.values())
    else:
        stored = sum(tensor.nbytes for tensor in source.tensors.values())
    layer = _layers(architecture, Plan.full(architecture)) // architecture.num_layers
    # Logits, their gradient and what lies between.
    tokens = min(options.window_tokens, architecture.context_length)
    analysis = 4 * layer + 4 * 4 * tokens * architecture.vocab_size
    recovery = 0
    if options.recovery is not None:
        recovery = _recovery_memory(architecture, levels, options.recovery.options)
    return _PROGRAM_BYTES + stored + max(analysis, recovery)


def _recovery_memory(
    architecture: Architecture, levels: Sequence[Level], training: RecoveryOptions
) -> int:
    """Of the factors of all levels with their gradients and moments, and of what is larger: a
    step of the largest level, or the fit of the widest module."""
    a = architecture
    factors = sum(_adapter(a, level.plan, training.rank) for level in levels[:-1])
    query = a.num_heads * a.head_dim
    # What autograd keeps of a layer, and of two models' logits; measured within a fifth.
    kept = 8 * (a.hidden_size + query) + 5 * a.ff
    logits = (6 if training.loss == "distill" else 3) * a.vocab_size
    step = training.batch_tokens * (a.num_layers * kept + logits)
    # A layer's products with as much padding as tokens, what all layers write, and two squares.
    product = 2 * (4 * a.hidden_size + max(3 * a.ff, 8 * query)) + 2 * a.ff
    fit = FIT_TOKENS * (product + a.num_layers * a.hidden_size) + 2 * a.ff**2
    return 4 * (4 * factors + max(step, fit if training.fitted else 0))


def _seconds(
    source: Source,
    architecture: Architecture,
    levels: Sequence[Level],
    options: ElastifyOptions,
    sample: int,
) -> dict[str, float]:
    tokens = options.windows * min(options.window_tokens, architecture.context_length)
    rate = _multiply_adds_per_second(architecture, _dtype(source, options))
    seconds = _passes_seconds(source, architecture, options.quantization, tokens, sample, rate)
    if options.importance == "activation":
        del seconds["importance of units"]
    passed = min(plan_tokens(architecture), tokens)
    work = _plan_work(architecture, options.plan, levels, passed)
    seconds["widths of layers"] = work / rate
    if options.recovery is not None:
        training = options.recovery.options
        seconds["recovery"] = _recovery_work(architecture, levels, training) / rate
    work = _report_work(source, architecture, levels, options, tokens)
    seconds["perplexity and accuracy of the levels"] = work / rate
    return seconds


def _passes_seconds(
    source: Source,
    architecture: Architecture,
    quantization: str,
    tokens: int,
    sample: int,
    rate: float,
) -> dict[str, float]:
    full = Plan.full(architecture)
    layers, head = _layers(architecture, full), _head(architecture)
    count, some = architecture.num_layers, min(tokens, ANCHOR_TOKENS)
    # Multiply-adds. Backwards takes two products, and every layer is computed again for it.
    steps = {
        "activations": tokens * (layers + head),
        "anchor layers": some * (layers * (1 + count / 2) + head * (1 + count)),
        "importance of units": min(tokens, IMPORTANCE_TOKENS) * (4 * layers + 2 * head),
        "verification": sample * (layers + head) * 10,
    }
    stored = sum(tensor.nbytes for tensor in source.tensors.values())
    elements = _parameters(architecture, full)
    return {
        "check of the weights": stored / _READ_BYTES_PER_SECOND,
        **{name: work / rate for name, work in steps.items()},
        "export": elements / _elements_per_second(quantization),
    }


def _plan_work(
    architecture: Architecture, kind: str, levels: Sequence[Level], tokens: int
) -> float:
    """Multiply-adds. Half of the tokens go through every level of every kind, the other half
    forwards, again and backwards for each stage of the search."""
    layers, head = _layers(architecture, Plan.full(architecture)), _head(architecture)
    kinds = 2 if kind == "best" else 1
    stages = 0 if kind == "uniform" else ceil((1 - levels[0].ratio) / STAGE)
    per_token = kinds * len(levels) * (layers + head) + stages * (3 * layers + 2 * head)
    return tokens / 2 * per_token


def _recovery_work(
    architecture: Architecture, levels: Sequence[Level], options: RecoveryOptions
) -> float:
    """Multiply-adds. The full model forwards, every other level forwards and backwards."""
    full = Plan.full(architecture)
    share = (options.loss == "distill") + 2 * sum(level.cost for level in levels[:-1])
    tokens = options.steps * options.batch_tokens
    per_token = _layers(architecture, full) + _head(architecture)
    return tokens * per_token * share


def _report_work(
    source: Source,
    architecture: Architecture,
    levels: Sequence[Level],
    options: ElastifyOptions,
    tokens: int,
) -> float:
    """Multiply-adds of every level, and again those with an adapter, on text and questions."""
    passes = sum(level.cost for level in levels)
    if options.recovery is not None:
        passes += sum(level.cost for level in levels[:-1])
    tokens = min(PERPLEXITY_TOKENS, tokens) + _question_tokens(source, options.tasks)
    per_token = _layers(architecture, Plan.full(architecture)) + _head(architecture)
    return tokens * passes * per_token


def _question_tokens(source: Source, tasks: str | Path | None) -> int:
    texts: list[str] = []
    for question in () if tasks is None else read_tasks(Path(tasks)):
        texts += [message["content"] for message in question.messages] + list(question.choices)
    return sum(len(source.tokenizer(text, add_special_tokens=False).input_ids) for text in texts)


def _multiply_adds_per_second(architecture: Architecture, dtype: Dtype) -> float:
    of_type = torch.bfloat16 if dtype == "bf16" else torch.float32
    tokens = torch.ones(256, architecture.hidden_size, dtype=of_type)
    weight = torch.ones(architecture.ff, architecture.hidden_size, dtype=of_type)
    torch.nn.functional.linear(tokens, weight)
    start, products = time.perf_counter(), 0
    while time.perf_counter() - start < _MEASURED_SECONDS:
        torch.nn.functional.linear(tokens, weight)
        products += 1
    return products * tokens.shape[0] * weight.numel() / (time.perf_counter() - start)


def _elements_per_second(quantization: str) -> float:
    sample = torch.randn(_SAMPLE_ROWS, _SAMPLE_COLUMNS)
    start = time.perf_counter()
    for _ in encode(sample, check_quantization(quantization)):
        pass
    return sample.numel() / (time.perf_counter() - start)
