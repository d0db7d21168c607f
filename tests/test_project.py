"""What holds for the project as a whole: layers, sizes, light imports, versions, make targets."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from pliant._version import __version__

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src" / "pliant").rglob("*.py"))
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 40
HEAVY = ("torch", "transformers", "numpy", "jinja2", "llama_cpp", "pliant.ggml.library")


def loaded_heavy_modules(statements: str) -> set[str]:
    """Which of HEAVY a fresh interpreter has imported after `statements`."""
    program = f"{statements}\nimport sys\nprint('\\nheavy:', *set(sys.modules) & set({HEAVY!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "statements",
    [
        "import pliant",
        "from pliant.cli import main; main(['--help'])",
        "from pliant.cli import main; main(['--version'])",
        "from pliant.cli import main; main([])",
        "import pliant.slo",
    ],
)
def test_light_imports(statements: str) -> None:
    assert loaded_heavy_modules(statements) == set()


def test_heavy_modules_would_be_noticed() -> None:
    assert loaded_heavy_modules("import pliant.ggml.library, jinja2") == {
        "pliant.ggml.library",
        "jinja2",
    }


def test_imports_keep_to_the_contracts() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_version_is_the_newest_in_the_changelog() -> None:
    versions = re.findall(r"^## \[(\d\S*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == __version__ == metadata.version("pliant")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes(path: Path) -> None:
    text = path.read_text()
    assert sum(1 for line in text.splitlines() if line.strip()) < MAX_FILE_LINES
    for node in functions(ast.parse(text)):
        assert num_lines(node) < MAX_FUNCTION_LINES, f"{node.name} has {num_lines(node)} lines"


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def num_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body, docstring aside."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("target", ["demo", "test", "lint", "format", "docs", "bench", "clean"])
def test_make_knows_the_target(target: str) -> None:
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, check=True)


def test_ci_calls_what_people_call() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "make lint" in script
    assert "make test" in script
