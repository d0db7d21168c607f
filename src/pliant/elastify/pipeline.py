"""From a Hugging Face folder to an elastic bundle, in one go."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf

from pliant.bundle import (
    Adapter,
    Architecture,
    Bundle,
    GgufFile,
    Level,
    open_bundle,
    write_bundle,
)
from pliant.bundle.write import refuse_foreign
from pliant.elastify.anchors import choose_anchors, default_anchor_count, losses_without_layers
from pliant.elastify.calibration import Calibration, mean_loss, read_calibration
from pliant.elastify.cluster import check_cluster, connect
from pliant.elastify.export import QUANTIZATIONS, write_gguf
from pliant.elastify.importance import order_by, taylor_scores
from pliant.elastify.levels import TARGET_RATIOS, LevelChoice, choose_levels
from pliant.elastify.recovery.data import RecoveryData, read_recovery_data
from pliant.elastify.recovery.levels import AdaptedLevels, adapt_levels
from pliant.elastify.recovery.options import Recovery
from pliant.elastify.reorder import reorder_model
from pliant.elastify.report.stopwatch import Stopwatch
from pliant.elastify.report.tasks import read_tasks
from pliant.elastify.report.write import make_report
from pliant.elastify.source import SourceConfig, load_model, load_tokenizer, read_config
from pliant.elastify.submodel import logits
from pliant.elastify.units import UnitScores
from pliant.elastify.verify import (
    SAMPLE_TOKENS,
    Verification,
    check_plans,
    check_tokens,
    reorder_difference,
)
from pliant.elastify.vocabulary import Vocabulary, read_vocabulary
from pliant.errors import BundleError, ElastifyError

WINDOWS = 64
WINDOW_TOKENS = 256
_VERSIONED = ("pliant", "torch", "transformers", "gguf", "llama-cpp-python")

Report = Callable[[str], None]


@dataclass(frozen=True)
class _Analysis:
    full_loss: float
    losses_without_layer: tuple[float, ...]
    anchors: tuple[int, ...]


def elastify(
    hf_dir: str | Path,
    out: str | Path,
    *,
    calibration: str | Path,
    quantization: str = "Q8_0",
    anchors: int | None = None,
    targets: Sequence[float] = TARGET_RATIOS,
    windows: int = WINDOWS,
    window_tokens: int = WINDOW_TOKENS,
    recovery: Recovery | None = None,
    tasks: str | Path | None = None,
    ray: str | None = None,
    report: Report = lambda line: None,
) -> Bundle:
    """Reorders, exports, picks levels, verifies each of them, and writes the bundle `out`.

    `calibration` is a UTF-8 text, or .jsonl with `text` per line, like what the model will see;
    `windows` pieces of `window_tokens` tokens are taken from all over it. `anchors` is the number
    of anchor layers (default: about a fifth). With `recovery` every level below the full model
    gets an adapter; a run that was cut short goes on training where it was. `tasks` is a file of
    questions (see `read_tasks`) for the accuracy that the bundle's report shows. `ray` is the
    address of a Ray cluster ("auto": this machine's) that shares the long work. `report` gets one
    line per step; the bundle's provenance and report keep the figures. Works in float32 and keeps
    model and gradients in memory: 8 bytes per parameter. Deterministic on one machine.

    Raises ElastifyError for a model, tokenizer or file that cannot be carried over exactly, and
    BundleError if `out` cannot be written; nothing is written then.
    """
    source, out = Path(hf_dir), Path(out).absolute()
    config, vocabulary = _check(source, out, quantization)
    check_cluster(ray)
    questions = () if tasks is None else read_tasks(Path(tasks))
    stopwatch = Stopwatch()
    tokenizer = load_tokenizer(source)
    data = _recovery_data(recovery, tokenizer, config)
    window_tokens = min(window_tokens, config.context_length)
    text = read_calibration(Path(calibration), tokenizer, windows, window_tokens)
    report(f"read {source}: {config.num_layers} layers; {text.num_tokens} calibration tokens")
    model = load_model(source)
    stopwatch.lap("reading")
    analysis = _analyse(model, config, text, anchors)
    stopwatch.lap("anchors")
    report(f"anchor layers: {', '.join(map(str, analysis.anchors)) or 'none'}")

    sample = text.batches[0][0][:SAMPLE_TOKENS]
    before = logits(model, sample[None])
    scores = _scores(model, config, text, ray)
    reorder_model(model, config, order_by(scores))
    difference = reorder_difference(before, logits(model, sample[None]))
    stopwatch.lap("importance and reordering")
    report(f"reordered by importance: logits changed by at most {difference:.1e}")

    with _scratch_folder(out) as scratch:
        draft = Path(scratch) / "model.gguf"
        write_gguf(model, vocabulary, draft, quantization, out.name)
        num_lines = check_tokens(draft, tokenizer, sample)
        stopwatch.lap("export")
        report(f"exported {quantization}; {num_lines} lines of text give the same tokens")
        rank = recovery.options.rank if recovery else 0
        choice = _levels(draft, analysis.anchors, targets, quantization, rank)
        exported = open_bundle(draft)
        checks = check_plans(exported, choice.levels, model, sample, quantization)
        verification = Verification(len(sample), difference, checks)
        stopwatch.lap("levels and verification")
        for line in (*choice.notes, *verification.lines()):
            report(line)
        provenance = _provenance(source, config, text, analysis)
        provenance |= {
            "quantization": quantization,
            "notes": list(choice.notes),
            "verification": asdict(verification),
        }
        adapted = _recover(model, draft, choice.levels, recovery, data, out, ray, report)
        provenance |= adapted.provenance
        stopwatch.lap("recovery")
        files = make_report(
            out.name,
            _with_adapters(exported, adapted),
            Path(scratch),
            provenance=provenance,
            scores=scores,
            verification=verification,
            batches=text.batches,
            questions=questions,
            stopwatch=stopwatch,
        )
        bundle = write_bundle(out, draft, adapted.levels, provenance, adapted.files, files)
    shutil.rmtree(_checkpoints(out), ignore_errors=True)
    return bundle


def _check(source: Path, out: Path, quantization: str) -> tuple[SourceConfig, Vocabulary]:
    """What can be refused early is: the work after it may take hours."""
    if quantization not in QUANTIZATIONS:
        known = ", ".join(QUANTIZATIONS)
        raise ElastifyError(f"quantization {quantization!r} is not one of {known}")
    refuse_foreign(out)
    config = read_config(source)
    return config, read_vocabulary(source, config.vocab_size)


def _scratch_folder(out: Path) -> TemporaryDirectory[str]:
    """Beside the bundle: the system's folder for such files may be small, or lie in memory."""
    beside = next(folder for folder in out.parents if folder.is_dir())
    try:
        return TemporaryDirectory(prefix=f".{out.name}.", dir=beside)
    except OSError as error:
        raise BundleError(f"cannot write in {beside}: {error}") from error


def _analyse(model: Any, config: SourceConfig, text: Calibration, anchors: int | None) -> _Analysis:
    count = default_anchor_count(config.num_layers) if anchors is None else anchors
    losses = losses_without_layers(model, text.batches)
    return _Analysis(
        full_loss=mean_loss(model, text.batches),
        losses_without_layer=tuple(losses),
        anchors=choose_anchors(losses, count),
    )


def _scores(model: Any, config: SourceConfig, text: Calibration, ray: str | None) -> UnitScores:
    if ray is None:
        return taylor_scores(model, config, text.batches)
    with connect(ray) as cluster:
        return cluster.scores(model, config, text.batches)


def _recovery_data(
    recovery: Recovery | None, tokenizer: Any, config: SourceConfig
) -> RecoveryData | None:
    if recovery is None:
        return None
    options = recovery.options
    limit = min(options.max_tokens, config.context_length)
    return read_recovery_data(recovery.data, tokenizer, limit, options.prompt_weight)


def _recover(
    model: Any,
    model_gguf: Path,
    levels: Sequence[Level],
    recovery: Recovery | None,
    data: RecoveryData | None,
    out: Path,
    ray: str | None,
    report: Report,
) -> AdaptedLevels:
    """The levels with their adapters; these are written beside `model_gguf`."""
    if recovery is None or data is None:
        return AdaptedLevels(tuple(levels), {}, {})
    architecture = Architecture.from_gguf(GgufFile.open(model_gguf))
    adapt = partial(
        adapt_levels,
        model,
        architecture,
        levels,
        data,
        recovery.options,
        model_gguf.parent,
        checkpoints=_checkpoints(out),
        report=report,
    )
    if ray is None:
        return adapt()
    with connect(ray) as cluster:
        return adapt(train=cluster.recover_levels)


def _with_adapters(exported: Bundle, adapted: AdaptedLevels) -> Bundle:
    """The exported model with the levels that its bundle will have."""
    adapters = {name: Adapter.open(path) for name, path in adapted.files.items()}
    return replace(exported, levels=adapted.levels, adapters=adapters)


def _checkpoints(out: Path) -> Path:
    """Stays beside the bundle until that is written."""
    return out.with_name(f".{out.name}.recovery")


def _levels(
    model_gguf: Path,
    anchors: Sequence[int],
    targets: Sequence[float],
    quantization: str,
    lora_rank: int,
) -> LevelChoice:
    architecture = Architecture.from_gguf(GgufFile.open(model_gguf))
    block, _ = gguf.GGML_QUANT_SIZES[QUANTIZATIONS[quantization]]
    return choose_levels(architecture, anchors, targets=targets, block=block, lora_rank=lora_rank)


def _provenance(
    source: Path, config: SourceConfig, text: Calibration, analysis: _Analysis
) -> dict[str, Any]:
    files = sorted([source / "config.json", *source.glob("*.safetensors")])
    return {
        "source": asdict(config),
        "source_sha256": {path.name: _sha256(path) for path in files},
        "importance": "first-order Taylor: sum of |gradient x weight| per unit and window",
        "calibration": {
            "sha256": text.sha256,
            "tokens": text.num_tokens,
            "loss": analysis.full_loss,
        },
        "anchors": list(analysis.anchors),
        "losses_without_layer": list(analysis.losses_without_layer),
        "versions": {name: metadata.version(name) for name in _VERSIONED},
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
