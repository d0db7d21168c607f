"""`pliant show`: what a bundle is, without loading the native library."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pliant.bundle import Architecture, Description, Finding, LayerPlan, Plan, open_bundle
from pliant.bundle import check as check_files
from pliant.bundle import describe as describe_bundle
from pliant.bundle.describe import AdapterDescription
from pliant.bundle.manifest import REPORT_PAGE_FILE
from pliant.cli.output import (
    console,
    format_bytes,
    format_count,
    print_json,
    print_table,
    table,
    terminal_safe,
)
from pliant.errors import CorruptFileError
from pliant.tlm.format import TlmFile

MAX_FACT_CHARS = 80


def show(
    bundle: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE",
            help="Name of an installed bundle, a bundle's folder, or a .gguf file.",
        ),
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Read every file and compare it with its checksum.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show a bundle: its architecture, levels, costs and files.

    A level's cost is its predicted share of the full model's work per token. With --check, a
    file that is missing, altered or foreign is an error.
    """
    opened = open_bundle(bundle)
    description = describe_bundle(opened)
    findings = check_files(opened) if check else []
    if as_json:
        found = {"findings": [asdict(finding) for finding in findings]} if check else {}
        print_json(description.to_json() | found)
    else:
        _print_facts(description, opened.tlm_path)
        _print_levels(description)
        _print_layers(description)
    if findings:
        raise CorruptFileError(_summary(findings))


def _summary(findings: list[Finding]) -> str:
    return "; ".join(finding.message for finding in findings)


def _print_facts(description: Description, tlm: Path | None) -> None:
    arch = description.architecture
    out = console()
    for name, value in (
        ("bundle", f"{description.name} ({description.path})"),
        ("architecture", _architecture_text(arch)),
        ("context", f"{arch.context_length} tokens"),
        ("vocabulary", f"{arch.vocab_size} tokens, {description.tokenizer.get('model', '?')}"),
        ("parameters", format_count(description.parameters)),
        ("types", _types_text(description)),
        *(
            ("file", f"{name}, {format_bytes(size)}")
            for name, size in sorted(description.files.items())
        ),
        *_tlm(tlm),
        *_report(description),
        *_provenance(description),
    ):
        shown_name, shown = (escape(terminal_safe(text)) for text in (f"{name:<14}", value))
        out.print(f"[bold]{shown_name}[/] {shown}", highlight=False)


def _tlm(path: Path | None) -> Iterator[tuple[str, str]]:
    if path is not None:
        c = TlmFile.open(path).config
        layers = f"{c.trunk_layers} + {c.score_layers} + {c.decision_layers} layers"
        yield "tiny LM", f"{layers} (shared, scores, decision), {c.hidden_size} wide"


def _report(description: Description) -> Iterator[tuple[str, str]]:
    if REPORT_PAGE_FILE in description.files:
        page = Path(description.path) / REPORT_PAGE_FILE
        yield "report", f"how it was made, for a browser: {page}"


def _provenance(description: Description) -> Iterator[tuple[str, str]]:
    """What fits a line; all of it is in the JSON."""
    for name, value in description.provenance.items():
        text = str(value)
        if value and not isinstance(value, dict) and len(name + text) <= MAX_FACT_CHARS:
            yield name, text


def _architecture_text(arch: Architecture) -> str:
    return (
        f"{arch.name}, {arch.num_layers} layers, {arch.hidden_size} wide, "
        f"{arch.num_heads} heads, {arch.num_kv_heads} KV heads, {arch.ff} MLP neurons"
    )


def _types_text(description: Description) -> str:
    return ", ".join(
        f"{share.type} {format_bytes(share.nbytes)} in {share.tensors} tensors"
        for share in description.types
    )


def _print_levels(description: Description) -> None:
    columns = ["level", "cost", "parameters"]
    has_adapters = any(level.adapter for level in description.levels)
    rows = table(*columns, *(["adapter"] if has_adapters else []), left=0)
    for level in description.levels:
        cells = [f"{level.ratio:g}", f"{level.cost:.3f}", format_count(level.parameters)]
        rows.add_row(*cells, *([_adapter_text(level.adapter)] if has_adapters else []))
    print()
    print_table(rows)


def _adapter_text(adapter: AdapterDescription | None) -> str:
    if adapter is None:
        return "-"
    return f"rank {adapter.rank}, {adapter.type}, {format_bytes(adapter.nbytes)}"


def _print_layers(description: Description) -> None:
    full = description.architecture.heads_per_kv
    plans = [Plan.from_json(level.plan) for level in description.levels]
    rows = table("layer", *(f"{level.ratio:g}" for level in description.levels), left=0)
    for index in range(description.architecture.num_layers):
        rows.add_row(str(index), *(_layer_text(plan.layers[index], full) for plan in plans))
    out = console()
    out.print()
    out.print("KV heads / MLP neurons that run, per layer and level", highlight=False)
    print_table(rows)


def _layer_text(layer: LayerPlan, full_heads_per_kv: int) -> str:
    """`4/512`; `4x2/512` where a KV head keeps only 2 of its query heads; `-` runs nothing."""
    heads = str(layer.kv_heads or "-")
    if layer.kv_heads and layer.heads_per_kv != full_heads_per_kv:
        heads += f"x{layer.heads_per_kv}"
    return f"{heads}/{layer.ff or '-'}"
