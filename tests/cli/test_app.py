"""The dispatcher: lazy verbs, exit codes, one line per error."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from pliant._version import __version__
from pliant.cli import app, main
from pliant.cli.app import VERBS, Verb
from pliant.errors import BundleNotFoundError

UseVerb = Callable[[Callable[..., Any]], None]


@pytest.fixture
def use_verb(monkeypatch: pytest.MonkeyPatch) -> UseVerb:
    """Makes a function the only verb, called `fake`."""

    def use(function: Callable[..., Any]) -> None:
        module = ModuleType("pliant.cli.fake")
        module.fake = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pliant.cli.fake", module)
        monkeypatch.setattr(app, "VERBS", (Verb("fake", "fake", "Do as the test says."),))

    return use


def raises(error: BaseException) -> Callable[[], None]:
    def fake() -> None:
        raise error

    return fake


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pliant {__version__}\n"


def test_the_package_can_be_run_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pliant", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"pliant {__version__}\n"


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for verb in VERBS:
        assert verb.name in shown
        assert verb.help[:40] in shown


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) in (0, 2)  # depends on the version of typer
    shown = capsys.readouterr()
    assert "Usage" in shown.out + shown.err


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_verb_has_the_help_that_the_dispatcher_shows(verb: Verb) -> None:
    function = getattr(import_module(f"pliant.cli.{verb.name}"), verb.function)
    is_group = isinstance(function, typer.Typer)
    told = function.info.help if is_group else inspect.getdoc(function)
    assert (told or "").splitlines()[0] == verb.help


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_verb_shows_its_own_help(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb.name, "--help"]) == 0
    assert f"pliant {verb.name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [["nonsense"], ["--nonsense"], ["show"], ["show", "a", "b"], ["doctor", "--nonsense"]]
)
def test_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Usage" in shown.err


def test_arguments_and_exit_code_reach_the_verb_and_back(use_verb: UseVerb) -> None:
    def fake(code: int) -> None:
        raise SystemExit(code)

    use_verb(fake)
    assert main(["fake", "7"]) == 7


def test_explained_error_is_one_line(use_verb: UseVerb, capsys: pytest.CaptureFixture[str]) -> None:
    use_verb(raises(BundleNotFoundError("no bundle 'x'")))
    assert main(["fake"]) == 2
    assert capsys.readouterr() == ("", "error: no bundle 'x'\n")


def test_unexpected_error_says_that_it_is_a_bug(
    use_verb: UseVerb, capsys: pytest.CaptureFixture[str]
) -> None:
    use_verb(raises(ZeroDivisionError("line one\nline two")))
    assert main(["fake"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("bug in pliant: ZeroDivisionError: line one (")
    assert "--debug" in shown.err


@pytest.mark.parametrize("error", [BundleNotFoundError("gone"), ZeroDivisionError("bug")])
def test_debug_lets_the_error_through(use_verb: UseVerb, error: Exception) -> None:
    use_verb(raises(error))
    with pytest.raises(type(error)):
        main(["--debug", "fake"])


def test_debug_can_be_set_in_the_environment(
    use_verb: UseVerb, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_verb(raises(ZeroDivisionError()))
    monkeypatch.setenv("PLIANT_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["fake"])


def test_interrupt(use_verb: UseVerb) -> None:
    use_verb(raises(KeyboardInterrupt()))
    assert main(["fake"]) == 130


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("pliant --help | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("pliant show pocket | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("PYTHONIOENCODING=ascii PLIANT_HOME=/\u00fc pliant doctor >/dev/null", 0, ""),
        (
            "pliant list >/dev/full",
            2,
            "error: the system refused: [Errno 28] No space left on device",
        ),
        ("pliant list >&-", 2, "error: there is no stdout to write to"),
        ("pliant list 2>&- >/dev/null", 0, ""),
        ("pliant show nonsense 2>/dev/full", 2, ""),
        ("pliant run pocket <&-", 2, "error: no prompt: give one as an argument or pipe it in"),
    ],
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_streams_that_are_closed_or_full_are_no_traceback(
    command: str, code: int, message: str
) -> None:
    script = command.replace("pliant", f"{sys.executable} -m pliant", 1)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (code, message)


def test_no_colour_when_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    main(["doctor"])
    assert "\x1b[3" not in capsys.readouterr().out
