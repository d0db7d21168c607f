"""From a Hugging Face folder to an elastic bundle, in one go."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf

from pliant.bundle import Architecture, Bundle, GgufFile, open_bundle, write_bundle
from pliant.bundle.write import refuse_foreign
from pliant.elastify.anchors import choose_anchors, default_anchor_count, losses_without_layers
from pliant.elastify.calibration import Calibration, mean_loss, read_calibration
from pliant.elastify.export import QUANTIZATIONS, write_gguf
from pliant.elastify.importance import check_importance, importance_scores, order_by
from pliant.elastify.levels import TARGET_RATIOS
from pliant.elastify.plans import check_plan_kind, choose_plans
from pliant.elastify.reorder import reorder_model
from pliant.elastify.source import SourceConfig, load_model, load_tokenizer, read_config
from pliant.elastify.submodel import logits
from pliant.elastify.verify import (
    SAMPLE_TOKENS,
    Verification,
    check_plans,
    check_tokens,
    reorder_difference,
)
from pliant.elastify.vocabulary import Vocabulary, read_vocabulary
from pliant.errors import BundleError, ElastifyError

DEFAULT_IMPORTANCE = "activation"
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
    importance: str = DEFAULT_IMPORTANCE,
    plan: str = "best",
    anchors: int | None = None,
    targets: Sequence[float] = TARGET_RATIOS,
    windows: int = WINDOWS,
    window_tokens: int = WINDOW_TOKENS,
    report: Report = lambda line: None,
) -> Bundle:
    """Reorders, exports, picks levels, verifies each of them, and writes the bundle `out`.

    `calibration` is a UTF-8 text, or .jsonl with `text` per line, like what the model will see;
    `windows` pieces of `window_tokens` tokens are taken from all over it. `importance` orders the
    units of a layer (`importance.IMPORTANCES`); `plan` says how widths are shared out among layers
    (`plans.PLAN_KINDS`). `anchors` is the number of anchor layers of uniform plans (default: about
    a fifth). `report` gets one line per step; the bundle's
    provenance keeps the figures. Works in float32 and keeps model and gradients in memory:
    8 bytes per parameter. Deterministic on one machine.

    Raises ElastifyError for a model, tokenizer or file that cannot be carried over exactly, and
    BundleError if `out` cannot be written; nothing is written then.
    """
    source, out = Path(hf_dir), Path(out).absolute()
    check_importance(importance)
    check_plan_kind(plan)
    config, vocabulary = _check(source, out, quantization)
    tokenizer = load_tokenizer(source)
    window_tokens = min(window_tokens, config.context_length)
    text = read_calibration(Path(calibration), tokenizer, windows, window_tokens)
    report(f"read {source}: {config.num_layers} layers; {text.num_tokens} calibration tokens")
    model = load_model(source)
    analysis = _analyse(model, config, text, anchors)
    report(f"anchor layers: {', '.join(map(str, analysis.anchors)) or 'none'}")

    sample = text.batches[0][0][:SAMPLE_TOKENS]
    before = logits(model, sample[None])
    scores = importance_scores(importance, model, config, text.batches)
    reorder_model(model, config, order_by(scores))
    difference = reorder_difference(before, logits(model, sample[None]))
    report(f"reordered by importance: logits changed by at most {difference:.1e}")

    with _scratch_folder(out) as scratch:
        draft = Path(scratch) / "model.gguf"
        write_gguf(model, vocabulary, draft, quantization, out.name)
        num_lines = check_tokens(draft, tokenizer, sample)
        report(f"exported {quantization}; {num_lines} lines of text give the same tokens")
        architecture = Architecture.from_gguf(GgufFile.open(draft))
        block, _ = gguf.GGML_QUANT_SIZES[QUANTIZATIONS[quantization]]
        plans = choose_plans(
            model, config, architecture, text.batches, analysis.anchors,
            kind=plan, targets=targets, block=block,
        )  # fmt: skip
        choice = plans.choice
        checks = check_plans(open_bundle(draft), choice.levels, model, sample, quantization)
        verification = Verification(len(sample), difference, checks)
        for line in (*plans.lines(), *choice.notes, *verification.lines()):
            report(line)
        provenance = _provenance(source, config, text, analysis)
        provenance |= {
            "importance": importance,
            "plans": plans.provenance(),
            "quantization": quantization,
            "notes": list(choice.notes),
            "verification": asdict(verification),
        }
        return write_bundle(out, draft, choice.levels, provenance)


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


def _provenance(
    source: Path, config: SourceConfig, text: Calibration, analysis: _Analysis
) -> dict[str, Any]:
    files = sorted([source / "config.json", *source.glob("*.safetensors")])
    return {
        "source": asdict(config),
        "source_sha256": {path.name: _sha256(path) for path in files},
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
