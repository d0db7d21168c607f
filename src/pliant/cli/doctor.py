"""`pliant doctor`: what pliant finds on this machine, and how to mend what is missing."""

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.text import Text

from pliant._version import __version__
from pliant.cli.output import console, format_bytes, print_json, terminal_safe
from pliant.errors import PliantError
from pliant.paths import cache_folder, home_folder

LOW_MEMORY_BYTES = 512 * 2**20
LOW_DISK_BYTES = 1 * 2**30
REINSTALL_LLAMA = (
    "CMAKE_ARGS=-DLLAVA_BUILD=OFF pip install --force-reinstall 'llama-cpp-python>=0.3.36,<0.4' "
    "(builds from source: needs a C++ compiler)"
)


class State(StrEnum):
    """OPTIONAL: absent, and only needed for some verbs. MISSING: pliant cannot run."""

    OK = "ok"
    OPTIONAL = "optional"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `remedy` says how to mend it, None where nothing is to be done."""

    name: str
    state: State
    detail: str
    remedy: str | None = None


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Check that pliant can run here, and say how to mend what is not.

    Exits with 0 if pliant can be used, with 1 if something it needs is missing.
    """
    findings = examine()
    usable = all(finding.state is not State.MISSING for finding in findings)
    if as_json:
        print_json({"usable": usable, "findings": [asdict(finding) for finding in findings]})
    else:
        _print_findings(findings, usable)
    raise typer.Exit(0 if usable else 1)


def examine() -> tuple[Finding, ...]:
    """Look at everything; a check that fails becomes a finding, never an exception."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _check_python,
        _check_ggml,
        _check_memory,
        _check_folders,
        _check_builtin_model,
        _check_elastify_extra,
    )
    return tuple(finding for check in checks for finding in check())


def _check_python() -> Iterator[Finding]:
    yield Finding("pliant", State.OK, __version__)
    detail = f"{platform.python_version()} ({sys.executable})"
    if sys.maxsize > 2**32:
        yield Finding("Python", State.OK, detail)
    else:
        yield Finding("Python", State.MISSING, f"{detail}, 32 bits", "install a 64-bit Python")
    yield Finding("system", State.OK, f"{platform.system()} {platform.machine()}")


def _check_ggml() -> Iterator[Finding]:
    from pliant.ggml import cpu, library

    try:
        libraries = library.load()
    except PliantError as error:
        yield Finding("ggml", State.MISSING, str(error), REINSTALL_LLAMA)
        return
    yield Finding("llama-cpp-python", State.OK, libraries.package_version)
    yield Finding("ggml", State.OK, f"{libraries.version} in {libraries.folder}")
    yield _cpu_finding(cpu.cpu_features())
    for device in cpu.devices():
        detail = f"{device.kind.name}: {device.description}"
        if device.kind is not cpu.DeviceKind.CPU:
            free, total = format_bytes(device.memory_free), format_bytes(device.memory_total)
            detail += f", {free} of {total} free"
        yield Finding(f"device {device.name}", State.OK, detail)


def _cpu_finding(features: tuple[str, ...]) -> Finding:
    from pliant.engine.threads import physical_cores

    counts = f"{physical_cores()} cores to compute on, {psutil.cpu_count()} logical CPUs"
    detail = f"{counts}; {' '.join(features) or 'no features'}"
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    if is_x86 and "avx2" not in features:
        remedy = f"if this CPU has AVX2, build ggml on this machine: {REINSTALL_LLAMA}"
        return Finding("CPU", State.WARNING, f"{detail}: slow without AVX2", remedy)
    return Finding("CPU", State.OK, detail)


def _check_memory() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    detail = f"{format_bytes(memory.available)} available of {format_bytes(memory.total)}"
    if memory.available < LOW_MEMORY_BYTES:
        yield Finding("memory", State.WARNING, detail, "close other programs")
    else:
        yield Finding("memory", State.OK, detail)


def _check_folders() -> Iterator[Finding]:
    for name, variable, folder in (
        ("cache folder", "PLIANT_CACHE", cache_folder()),
        ("home folder", "PLIANT_HOME", home_folder()),
    ):
        existing = _nearest_existing(folder)
        free = shutil.disk_usage(existing).free
        detail = f"{folder}, {format_bytes(free)} free"
        if not (existing.is_dir() and os.access(existing, os.W_OK)):
            remedy = f"make {existing} writable, or set {variable} to another folder"
            yield Finding(name, State.WARNING, f"{detail}, not writable", remedy)
        elif free < LOW_DISK_BYTES:
            remedy = f"free some disk space, or set {variable} to another folder"
            yield Finding(name, State.WARNING, detail, remedy)
        else:
            yield Finding(name, State.OK, detail)


def _nearest_existing(path: Path) -> Path:
    absolute = path.absolute()
    return next(folder for folder in (absolute, *absolute.parents) if _exists(folder))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _check_builtin_model() -> Iterator[Finding]:
    from pliant.bundle import check, open_bundle

    remedy = "reinstall pliant, or name another bundle"
    try:
        bundle = open_bundle("pocket")
        problems = check(bundle)
    except PliantError as error:
        yield Finding("built-in model", State.WARNING, str(error), remedy)
        return
    if problems:
        yield Finding("built-in model", State.WARNING, problems[0].message, remedy)
    else:
        yield Finding("built-in model", State.OK, f"pocket, {len(bundle.levels)} levels")


def _check_elastify_extra() -> Iterator[Finding]:
    versions = {name: _installed_version(name) for name in extra_packages("elastify")}
    detail = ", ".join(f"{name} {version or 'absent'}" for name, version in versions.items())
    if all(versions.values()):
        yield Finding("extra elastify", State.OK, detail)
    else:
        remedy = "to use `pliant elastify`: pip install 'pliant[elastify]'"
        yield Finding("extra elastify", State.OPTIONAL, detail, remedy)


def extra_packages(extra: str) -> tuple[str, ...]:
    """Names of the packages that `pip install 'pliant[extra]'` adds."""
    marked = re.compile(rf"""([\w.-]+).*;.*extra == ['"]{extra}['"]""")
    matches = (marked.match(line) for line in metadata.requires("pliant") or ())
    return tuple(match[1] for match in matches if match)


def _installed_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


_COLOURS = {
    State.OK: "green",
    State.OPTIONAL: "cyan",
    State.WARNING: "yellow",
    State.MISSING: "red",
}


def _print_findings(findings: tuple[Finding, ...], usable: bool) -> None:
    out = console()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        line = Text(f"{finding.state:<8}", style=_COLOURS[finding.state])
        detail = terminal_safe(finding.detail)
        line.append(f"  {finding.name:<{width}}  {detail}", style="default")
        out.print(line)
        if finding.remedy:
            out.print(Text(f"{'':<{width + 12}}mend: {terminal_safe(finding.remedy)}"))
    out.print("pliant can be used" if usable else "pliant cannot be used: see `missing` above")
