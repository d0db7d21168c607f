"""From a bundle's bare levels to levels with adapters, and the files of these."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pliant.bundle import Architecture, Level, adapter_file_name, with_adapter, write_adapter
from pliant.bundle.adapters import AdapterQuantization
from pliant.elastify.recovery.adapted import gguf_factors
from pliant.elastify.recovery.batches import batches_of
from pliant.elastify.recovery.data import RecoveryData
from pliant.elastify.recovery.losses import mean_lm_loss
from pliant.elastify.recovery.options import RecoveryOptions
from pliant.elastify.recovery.recover import RecoveredLevel, recover_levels
from pliant.progress import Track, untracked

ADAPTER_QUANTIZATION: AdapterQuantization = "Q8_0"

Train = Callable[..., tuple[RecoveredLevel, ...]]


@dataclass(frozen=True, eq=False)
class AdaptedLevels:
    """`levels` as the bundle states them; `files` are their adapters by name."""

    levels: tuple[Level, ...]
    files: dict[str, Path]
    provenance: dict[str, Any]


def adapt_levels(
    model: Any,
    architecture: Architecture,
    levels: Sequence[Level],
    data: RecoveryData,
    options: RecoveryOptions,
    folder: Path,
    *,
    train: Train = recover_levels,
    report: Callable[[str], None] = lambda line: None,
    track: Track = untracked,
) -> AdaptedLevels:
    """Trains an adapter for every level but the full one and writes it into `folder`, where
    checkpoints lie too.

    `model` is the reordered transformers model. A level whose adapter does not lower the loss on
    held-out examples stays as it is. `train` is `recover_levels` or does the same elsewhere.
    Raises ElastifyError if a checkpoint, and BundleError if an adapter cannot be written.
    """
    report(f"recovery: {len(data.training)} examples, {len(data.held_out)} held out")
    small = [level for level in levels if level.ratio < 1.0]
    trained = train(model, small, data, options, checkpoints=folder / "recovery", track=track)
    full_loss = mean_lm_loss(model, batches_of(data.held_out, options.batch_tokens))
    by_ratio = {result.ratio: result for result in trained}
    adapted, files, rows = [], {}, []
    for level in levels:
        result = by_ratio.get(level.ratio)
        if result is not None:
            rows.append(_row(result, full_loss))
            report(_line(result, full_loss))
        if result is not None and result.helps:
            name = adapter_file_name(level.ratio)
            files[name] = folder / name
            factors = gguf_factors(result.factors, architecture)
            adapter = write_adapter(
                files[name], architecture.name, factors, options.alpha, ADAPTER_QUANTIZATION
            )
            level = with_adapter(architecture, level, name, adapter)
        adapted.append(level)
    provenance = {
        "options": options.to_json(),
        "data_sha256": data.sha256,
        "full_loss": full_loss,
        "levels": rows,
    }
    return AdaptedLevels(tuple(adapted), files, {"recovery": provenance})


def _row(result: RecoveredLevel, full_loss: float) -> dict[str, Any]:
    return {
        "ratio": result.ratio,
        "adapter": result.helps,
        "bare_loss": result.bare_loss,
        "recovered_loss": result.recovered_loss,
        "gap_closed": result.gap_closed(full_loss),
        "training_losses": list(result.training_losses),
    }


def _line(result: RecoveredLevel, full_loss: float) -> str:
    bare, recovered, full = map(math.exp, (result.bare_loss, result.recovered_loss, full_loss))
    figures = f"held-out perplexity {bare:.2f}, with its adapter {recovered:.2f} (full: {full:.2f})"
    if result.helps:
        return f"recovery of level {result.ratio:g}: {figures}"
    return f"level {result.ratio:g} keeps no adapter: {figures}"
