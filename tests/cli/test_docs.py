"""The documents: every command and example in them runs, every verb has its section."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from pliant.cli.app import VERBS
from support.bundle_with_tlm import make_bundle_with_tlm
from support.tiny_bundle import make_tiny_bundle
from support.tiny_gguf import CORPUS, make_tiny_gguf
from support.tiny_hf import make_folder
from support.tiny_tasks import write_tasks

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
] + sorted((ROOT / "docs").glob("*.md"))

# Commands that are not run here (patterns of the whole line), and why.
EXEMPT = {
    r"make \w+": "tests/test_project.py looks at every target with make --dry-run",
    r"(CMAKE_ARGS=\S+ )?pip install .*": "would install packages",
    r"pliant pull .*": "needs the network; tests/cli/test_pull.py has a server of its own",
    r"pliant demo": "takes a minute or two; tests/cli/test_demo.py runs it on a fake model",
    r"pliant run pocket": "a chat needs a terminal; tests/e2e/test_run_terminal.py gives it one",
}


def blocks(path: Path, language: str) -> Iterator[str]:
    """Contents of the fenced blocks of `language`."""
    yield from re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    """(document, command) for every line after a `$ ` prompt, each pair once."""
    found = {}
    for path in DOCUMENTS:
        for block in [*blocks(path, "console"), *blocks(path, "bash")]:
            for line in block.splitlines():
                if line.startswith("$ "):
                    found[path.name, line[2:].partition("  #")[0].strip()] = None
    return list(found)


COMMANDS = commands()
RUN = [
    pytest.param(command, id=f"{document}-{command}")
    for command, document in {command: document for document, command in COMMANDS}.items()
    if not re.fullmatch("|".join(EXEMPT), command)
]
EXAMPLES = [
    pytest.param(code, id=f"{path.name}-{index}")
    for path in DOCUMENTS
    for index, code in enumerate(blocks(path, "python"))
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the documents take for granted."""
    folder = tmp_path_factory.mktemp("workplace")
    make_folder(folder / "my-llama")
    make_tiny_gguf(folder / "my-model.gguf")
    make_bundle_with_tlm(folder / "my-bundle")
    make_tiny_bundle(folder / "home" / "bundles" / "pocket", context=1024)
    shutil.copytree(ROOT / "docs" / "examples", folder / "docs" / "examples")
    for name in ("tasks.jsonl", "held-out.jsonl"):
        write_tasks(folder / name, count=3)
    (folder / "calibration.txt").write_text("".join(CORPUS) * 8)
    return folder


@pytest.fixture
def environment(workplace: Path) -> dict[str, str]:
    """This interpreter's commands first; `pocket` is built in, or a stand-in in the home folder."""
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PLIANT_HOME": str(workplace / "home"),
        "PLIANT_CACHE": str(workplace / "cache"),
    }


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize("command", RUN)
def test_command_runs(command: str, workplace: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=workplace,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", EXAMPLES)
def test_python_example_runs(code: str, workplace: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=workplace,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_every_exemption_is_needed() -> None:
    for pattern in EXEMPT:
        assert any(re.fullmatch(pattern, command) for _, command in COMMANDS), pattern


def test_make_targets_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document, command in COMMANDS:
        if command.startswith("make "):
            assert command.split()[1] in targets, document


def test_commands_page_is_what_the_commands_say() -> None:
    spec = spec_from_file_location("cli_docs", ROOT / "scripts" / "cli_docs.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "cli.md").read_text() == module.page(), "run: make docs"


def test_every_verb_has_its_section() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert re.findall(r"^## pliant (\w+)$", page, re.MULTILINE) == [verb.name for verb in VERBS]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target
