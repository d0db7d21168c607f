"""From a Hugging Face folder to an elastic bundle, in one go."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from pliant.bundle import (
    Adapter,
    Architecture,
    Bundle,
    GgufFile,
    Level,
    open_bundle,
    write_bundle,
)
from pliant.elastify.analysis import Analysis, analyse
from pliant.elastify.calibration import Calibration
from pliant.elastify.checkpoint import check_values
from pliant.elastify.cluster import check_cluster
from pliant.elastify.inputs import check_source, replacement_notes
from pliant.elastify.options import DEFAULTS, ElastifyOptions
from pliant.elastify.plans import PlanChoice
from pliant.elastify.recovery.data import RecoveryData
from pliant.elastify.recovery.levels import AdaptedLevels
from pliant.elastify.report.stopwatch import Stopwatch
from pliant.elastify.report.tasks import read_tasks
from pliant.elastify.report.write import make_report
from pliant.elastify.source import SourceConfig, choose_device, choose_dtype, load_model
from pliant.elastify.steps import (
    Report,
    Run,
    check_tokenizer,
    export_draft,
    recover,
    reference_logits,
    reorder,
    sample_of,
    widths,
)
from pliant.elastify.verify import (
    Verification,
    check_plans,
    check_tokens,
)
from pliant.elastify.work import WorkFolder
from pliant.engine.questions import Question
from pliant.progress import Track, untracked

_VERSIONED = ("pliant", "torch", "transformers", "gguf", "llama-cpp-python")


def elastify(
    hf_dir: str | Path,
    out: str | Path,
    *,
    calibration: str | Path,
    options: ElastifyOptions = DEFAULTS,
    report: Report = lambda line: None,
    track: Track = untracked,
) -> Bundle:
    """Reorders, exports, picks levels, verifies each of them, and writes the bundle `out`.

    `calibration` is a UTF-8 text, or .jsonl with `text` per line, like what the model will see.
    `report` gets one line per step, `track` wraps what takes long; the bundle's provenance and
    report keep the figures. Finished steps lie in `.NAME.work` beside `out` until all are: a run
    that was ended goes on from there. Deterministic on one machine.

    Raises ElastifyError for a model, tokenizer or file that cannot be carried over exactly, and
    BundleError if `out` cannot be written; there is no bundle then.
    """
    out = Path(out).absolute()
    source = check_source(Path(hf_dir), out)
    notes = replacement_notes(out)
    check_cluster(options.ray)
    questions = () if options.tasks is None else read_tasks(Path(options.tasks))
    stopwatch = Stopwatch()
    device = choose_device(options.device)
    data = source.recovery_data(options.recovery) if options.recovery else None
    text = source.calibration(Path(calibration), options.windows, options.window_tokens)
    layers = source.config.num_layers
    report(f"read {source.folder}: {layers} layers; {text.num_tokens} calibration tokens")
    check_tokenizer(source, options.quantization, sample_of(source, text))
    digests = check_values(source.folder, source.tensors, track)
    provenance = _provenance(source.config, digests, text)
    dtype = choose_dtype(options.dtype, source.tensors, device)
    inputs = {"windows": text.shape, "dtype": dtype, "device": device}
    work = WorkFolder(out, {**provenance, **inputs})
    run = Run(out.name, source, text, options, work, stopwatch, report, track)

    made = _make(run, partial(load_model, source.folder, dtype, device), data)
    gc.collect()
    verification = _verify(run, made)
    provenance |= made.provenance
    provenance |= {"importance": options.importance, "quantization": options.quantization}
    provenance |= {"verification": asdict(verification)}
    files = _report_files(run, made, verification, provenance, questions)
    adapted = made.adapted
    bundle = write_bundle(out, made.draft, adapted.levels, provenance, adapted.files, files)
    work.remove()
    for note in notes:
        report(note)
    return bundle


@dataclass(frozen=True)
class _Made:
    """What is kept of the steps that need the model; `references` gives transformers' logits."""

    draft: Path
    analysis: Analysis
    anchors: Sequence[int]
    difference: float
    plans: PlanChoice
    references: Callable[[Level], Any]
    adapted: AdaptedLevels

    @property
    def provenance(self) -> dict[str, Any]:
        return {
            **self.analysis.provenance(self.anchors),
            "plans": self.plans.provenance(),
            "notes": list(self.plans.choice.notes),
            **self.adapted.provenance,
        }


def _make(run: Run, load: Callable[[], Any], data: RecoveryData | None) -> _Made:
    """Analyses, reorders, exports, plans and recovers; the model is gone afterwards."""
    source, options, work, track = run.source, run.options, run.work, run.track
    lap = run.stopwatch.lap
    model = load()
    lap("reading")
    analysis = analyse(model, source.config, run.text, options.importance, work, track, options.ray)
    lap("importance and anchors")
    chosen = analysis.anchors(options.anchors)
    run.report(f"anchor layers: {', '.join(map(str, chosen)) or 'none'}")
    difference = reorder(model, source.config, analysis, run.sample)
    run.report(f"reordered by importance: logits changed by at most {difference:.1e}")
    draft = export_draft(model, source, analysis, options.quantization, run.name, work, track)
    num_lines = check_tokens(draft, source.tokenizer, run.sample)
    lap("reordering and export")
    run.report(f"exported {options.quantization}; {num_lines} lines of text give the same tokens")
    architecture = Architecture.from_gguf(GgufFile.open(draft))
    plans = widths(model, architecture, run.text, chosen, analysis, options, work, track)
    levels = plans.choice.levels
    references = reference_logits(model, levels, analysis, run.sample, work, track)
    lap("levels")
    adapted = recover(model, architecture, levels, data, options, work, run.report, track)
    lap("recovery")
    return _Made(draft, analysis, chosen, difference, plans, references, adapted)


def _verify(run: Run, made: _Made) -> Verification:
    choice = made.plans.choice
    exported = open_bundle(made.draft)
    checks = check_plans(
        exported, choice.levels, made.references, run.sample, run.options.quantization, run.track
    )
    run.stopwatch.lap("verification")
    verification = Verification(len(run.sample), made.difference, checks)
    for line in (*made.plans.lines(), *choice.notes, *verification.lines()):
        run.report(line)
    return verification


def _report_files(
    run: Run,
    made: _Made,
    verification: Verification,
    provenance: dict[str, Any],
    questions: Sequence[Question],
) -> dict[str, Path]:
    return make_report(
        run.name,
        _with_adapters(open_bundle(made.draft), made.adapted),
        run.work,
        provenance=provenance,
        scores=made.analysis.scores,
        verification=verification,
        batches=run.text.batches,
        questions=questions,
        stopwatch=run.stopwatch,
        track=run.track,
    )


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
