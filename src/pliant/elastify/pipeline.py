"""From a Hugging Face folder to an elastic bundle, in one go."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pliant.bundle import (
    Adapter,
    Architecture,
    Bundle,
    GgufFile,
    Level,
    open_bundle,
    write_bundle,
)
from pliant.elastify.activations import reorder_columns
from pliant.elastify.analysis import Analysis, analyse
from pliant.elastify.calibration import Calibration
from pliant.elastify.checkpoint import check_values
from pliant.elastify.cluster import check_cluster, connect
from pliant.elastify.export import write_gguf
from pliant.elastify.importance import DEFAULT_IMPORTANCE, check_importance
from pliant.elastify.inputs import WINDOW_TOKENS, WINDOWS, Source, check_source
from pliant.elastify.levels import TARGET_RATIOS
from pliant.elastify.plans import DEFAULT_PLANS, PlanChoice, check_plan_kind, choose_plans
from pliant.elastify.precision import widen
from pliant.elastify.progress import Track, untracked
from pliant.elastify.quantization import column_blocks
from pliant.elastify.recovery.data import RecoveryData
from pliant.elastify.recovery.levels import AdaptedLevels, adapt_levels
from pliant.elastify.recovery.options import Recovery
from pliant.elastify.reorder import reorder_model
from pliant.elastify.report.stopwatch import Stopwatch
from pliant.elastify.report.tasks import read_tasks
from pliant.elastify.report.write import make_report
from pliant.elastify.source import Device, Dtype, SourceConfig, choose_device, config_of, load_model
from pliant.elastify.submodel import logits
from pliant.elastify.verify import (
    Verification,
    check_plans,
    check_tokens,
    expected_logits,
    reorder_difference,
    sample_length,
)
from pliant.elastify.work import WorkFolder

_VERSIONED = ("pliant", "torch", "transformers", "gguf", "llama-cpp-python")

Report = Callable[[str], None]


def elastify(
    hf_dir: str | Path,
    out: str | Path,
    *,
    calibration: str | Path,
    quantization: str = "Q8_0",
    importance: str = DEFAULT_IMPORTANCE,
    plan: str = DEFAULT_PLANS,
    anchors: int | None = None,
    targets: Sequence[float] = TARGET_RATIOS,
    windows: int = WINDOWS,
    window_tokens: int = WINDOW_TOKENS,
    dtype: Dtype = "f32",
    device: Device = "auto",
    recovery: Recovery | None = None,
    tasks: str | Path | None = None,
    ray: str | None = None,
    report: Report = lambda line: None,
    track: Track = untracked,
) -> Bundle:
    """Reorders, exports, picks levels, verifies each of them, and writes the bundle `out`.

    `calibration` is a UTF-8 text, or .jsonl with `text` per line, like what the model will see;
    `windows` pieces of `window_tokens` tokens are taken from all over it. `importance` orders the
    units of a layer (`importance.IMPORTANCES`); `plan` says how widths are shared out among layers
    (`plans.PLAN_KINDS`). `anchors` is the number of anchor layers of uniform plans (default: about
    a fifth). `dtype` is what is computed in; weights stay in memory as they are stored, with the
    gradients of one layer. With `recovery` every level below the full model gets an adapter.
    `tasks` is a file of questions (see `read_tasks`) for the accuracy that the bundle's report
    shows. `ray` is the address of a Ray cluster ("auto": this machine's) that shares the long
    work. `report` gets one line per step, `track` wraps what takes long; the bundle's provenance
    and report keep the figures. Finished steps lie in `.NAME.work` beside `out` until all are: a
    run that was ended goes on from there. Deterministic on one machine.

    Raises ElastifyError for a model, tokenizer or file that cannot be carried over exactly, and
    BundleError if `out` cannot be written; there is no bundle then.
    """
    out = Path(out).absolute()
    check_importance(importance)
    check_plan_kind(plan)
    source = check_source(Path(hf_dir), out, quantization)
    check_cluster(ray)
    questions = () if tasks is None else read_tasks(Path(tasks))
    stopwatch = Stopwatch()
    device_name = choose_device(device)
    data = source.recovery_data(recovery) if recovery else None
    text = source.calibration(Path(calibration), windows, window_tokens)
    layers = source.config.num_layers
    report(f"read {source.folder}: {layers} layers; {text.num_tokens} calibration tokens")
    digests = check_values(source.folder, source.tensors, track)
    provenance = _provenance(source.config, digests, text)
    options = {"windows": text.shape, "dtype": dtype, "device": device_name}
    work = WorkFolder(out, {**provenance, **options})

    model = load_model(source.folder, dtype, device_name)
    stopwatch.lap("reading")
    analysis = analyse(model, source.config, text, importance, work, track, ray)
    stopwatch.lap("importance and anchors")
    chosen = analysis.anchors(anchors)
    report(f"anchor layers: {', '.join(map(str, chosen)) or 'none'}")

    sample = text.batches[0][0][: sample_length(source.config.vocab_size)]
    difference = _reorder(model, source.config, analysis, sample)
    report(f"reordered by importance: logits changed by at most {difference:.1e}")

    draft = _export(model, source, analysis, quantization, out.name, work, track)
    num_lines = check_tokens(draft, source.tokenizer, sample)
    stopwatch.lap("reordering and export")
    report(f"exported {quantization}; {num_lines} lines of text give the same tokens")
    architecture = Architecture.from_gguf(GgufFile.open(draft))
    block, ff_block = column_blocks(architecture, quantization)
    limits = {
        "targets": list(targets),
        "block": block,
        "ff_block": ff_block,
        "lora_rank": recovery.options.rank if recovery else 0,
    }
    plans = _plans(model, architecture, text, chosen, analysis, plan, limits, work, track)
    choice = plans.choice
    references = _references(model, choice.levels, analysis, sample, work, track)
    stopwatch.lap("levels")
    adapted = _recover(model, architecture, choice.levels, recovery, data, work, ray, report, track)
    stopwatch.lap("recovery")
    del model
    gc.collect()

    exported = open_bundle(draft)
    checks = check_plans(exported, choice.levels, references, sample, quantization, track)
    stopwatch.lap("verification")
    verification = Verification(len(sample), difference, checks)
    for line in (*plans.lines(), *choice.notes, *verification.lines()):
        report(line)
    provenance |= {
        **analysis.provenance(chosen),
        "importance": importance,
        "plans": plans.provenance(),
        "quantization": quantization,
        "notes": list(choice.notes),
        "verification": asdict(verification),
        **adapted.provenance,
    }
    files = make_report(
        out.name,
        _with_adapters(exported, adapted),
        work.path,
        provenance=provenance,
        scores=analysis.scores,
        verification=verification,
        batches=text.batches,
        questions=questions,
        stopwatch=stopwatch,
        track=track,
    )
    bundle = write_bundle(out, draft, adapted.levels, provenance, adapted.files, files)
    work.remove()
    return bundle


def _reorder(model: Any, config: SourceConfig, analysis: Analysis, sample: torch.Tensor) -> float:
    """Largest change of a logit. From here on all is computed in float32, to be compared."""
    widen(model)
    before = logits(model, sample[None])
    reorder_model(model, config, analysis.order)
    return reorder_difference(before, logits(model, sample[None]))


def _export(
    model: Any,
    source: Source,
    analysis: Analysis,
    quantization: str,
    name: str,
    work: WorkFolder,
    track: Track,
) -> Path:
    """The whole model as a GGUF file in the work folder."""
    importance = reorder_columns(analysis.importance, analysis.order)

    def write(path: Path) -> None:
        write_gguf(
            model, source.vocabulary, path, quantization, name, importance=importance, track=track
        )

    inputs = {"order": analysis.order_sha256, "quantization": quantization, "name": name}
    return work.file("model.gguf", inputs, write)


def _plans(
    model: Any,
    architecture: Architecture,
    text: Calibration,
    anchors: Sequence[int],
    analysis: Analysis,
    kind: str,
    limits: Mapping[str, Any],
    work: WorkFolder,
    track: Track,
) -> PlanChoice:
    def write(path: Path) -> None:
        config = config_of(model.config)
        found = choose_plans(
            model, config, architecture, text.batches, anchors, kind=kind, track=track, **limits
        )
        path.write_text(json.dumps(found.to_json()), encoding="utf-8")

    inputs = {"order": analysis.order_sha256, "anchors": anchors, "kind": kind, **limits}
    path = work.file("plans.json", inputs, write)
    return PlanChoice.from_json(json.loads(path.read_text(encoding="utf-8")))


def _references(
    model: Any,
    levels: Sequence[Level],
    analysis: Analysis,
    sample: torch.Tensor,
    work: WorkFolder,
    track: Track,
) -> Callable[[Level], Any]:
    """What transformers computes at each level, in files: so the model can go before the engine
    loads its own."""

    def write(level: Level, path: Path) -> None:
        np.save(path, expected_logits(model, level, sample))

    inputs = {"order": analysis.order_sha256}
    paths = {
        level.ratio: work.file("logits.npy", {**inputs, **asdict(level)}, partial(write, level))
        for level in track(levels, "reference logits", len(levels))
    }
    return lambda level: np.load(paths[level.ratio], allow_pickle=False)


def _recover(
    model: Any,
    architecture: Architecture,
    levels: Sequence[Level],
    recovery: Recovery | None,
    data: RecoveryData | None,
    work: WorkFolder,
    ray: str | None,
    report: Report,
    track: Track,
) -> AdaptedLevels:
    """The levels with their adapters, whose files and checkpoints lie in the work folder."""
    if recovery is None or data is None:
        return AdaptedLevels(tuple(levels), {}, {})
    adapt = partial(
        adapt_levels,
        model,
        architecture,
        levels,
        data,
        recovery.options,
        work.path,
        report=report,
        track=track,
    )
    if ray is None:
        return adapt()
    with connect(ray) as cluster:
        return adapt(train=cluster.recover_levels)


def _with_adapters(exported: Bundle, adapted: AdaptedLevels) -> Bundle:
    """The exported model with the levels that its bundle will have."""
    adapters = {name: Adapter.open(path) for name, path in adapted.files.items()}
    return replace(exported, levels=adapted.levels, adapters=adapters)


def _provenance(config: SourceConfig, digests: dict[str, str], text: Calibration) -> dict[str, Any]:
    return {
        "source": asdict(config),
        "source_sha256": digests,
        "calibration": {"sha256": text.sha256, "tokens": text.num_tokens},
        "versions": {name: metadata.version(name) for name in _VERSIONED},
    }
