"""`pliant run --context`: chats that go on where they were, on a real model."""

import json
import os
import re
import signal
from functools import partial
from pathlib import Path

import pytest

from pliant.cli import main
from pliant.cli.context_chat import context_options
from pliant.contexts import ContextOptions, StorageProfile
from pliant.slo import open_orchestrator
from support.bundle_with_tlm import make_bundle_with_tlm
from support.tiny_bundle import make_tiny_bundle

LONG = "Turn on the wifi and the bluetooth, please. " * 12 + "Thanks."


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    return str(make_tiny_bundle(folder, context=512).path)


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLIANT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PLIANT_CACHE", str(tmp_path / "cache"))
    short = partial(open_orchestrator, budget_s=1.0)
    monkeypatch.setattr("pliant.contexts.choice.open_orchestrator", short)


def run(bundle: str, *arguments: str) -> int:
    return main(["run", bundle, "--max-tokens", "4", "--threads", "1", *arguments])


def shown(name: str, capsys: pytest.CaptureFixture[str]) -> dict:
    capsys.readouterr()
    assert main(["contexts", "show", name, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def messages(found: dict) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for piece in found["pieces"] for m in piece["messages"]]


def test_a_context_is_begun_and_goes_on_in_the_next_process(bundle: str, capsys) -> None:
    assert run(bundle, LONG, "--context", "trip", "--system", "Be brief.") == 0
    out, err = capsys.readouterr()
    assert "new context trip (" in err and out.endswith("\n")
    first = shown("trip", capsys)
    assert messages(first) == [
        ("system", "Be brief."), ("user", LONG), ("assistant", out.strip("\n")),
    ]  # fmt: skip
    assert run(bundle, "And off again.", "--context", "trip") == 0
    err = capsys.readouterr().err
    count = first["num_tokens"]
    assert f"context trip ({first['id']}), {count} tokens" in err
    assert re.search(rf"context of {count - 1} tokens: \d+ from disk", err)
    assert first["app"] == "chat" and first["title"] == "trip"
    assert len(messages(shown("trip", capsys))) == 5


def test_a_context_is_named_by_its_id_too(bundle: str, capsys) -> None:
    run(bundle, "one", "--context", "trip")
    found = shown("trip", capsys)["id"]
    assert run(bundle, "two", "--context", found, "--level", "0.5") == 0
    assert "[level 0.5, " in capsys.readouterr().err
    assert shown(found, capsys)["title"] == "trip"
    assert run(bundle, "two", "--context", "f" * 32) == 2
    assert capsys.readouterr().err == f"error: there is no context {'f' * 32}\n"


def test_all_answers_of_a_chat_are_of_one_context(
    bundle: str, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["hello", "/level 0.5", "again", "/reset", "/system Be kind.", "/slo 50s", "now"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: next(lines, "/bye"))
    assert run(bundle, "--context", "trip") == 0
    err = capsys.readouterr().err
    assert re.search(r"context of \d+ tokens: \d+ kept\]", err)
    assert "error: a context keeps what was said: `pliant contexts rm " in err
    assert "error: a context keeps its system message" in err
    assert re.search(r"\[level 1, TTFT .* \(predicted .*\), .*SLO <5e\+04ms,-> met, context", err)
    said = [text for role, text in messages(shown("trip", capsys)) if role == "user"]
    assert said == ["hello", "again", "now"]


def test_an_slo_chooses_the_level_and_is_judged(bundle: str, capsys) -> None:
    assert run(bundle, LONG, "--context", "trip", "--ttft", "50s", "--tpot", "50s") == 0
    err = capsys.readouterr().err
    assert "measuring this device" in err and "[level 1, " in err and "(predicted " in err
    assert "SLO <5e+04ms,5e+04ms> met" in err
    before = shown("trip", capsys)
    arguments = ("--context", "trip", "--ttft", "0.0001ms")
    assert run(bundle, "more", *arguments, "--strict") == 2
    err = capsys.readouterr().err
    assert re.search(r"smallest SLO that can be met is --ttft [\d.]+ms$", err, re.MULTILINE)
    assert shown("trip", capsys) == before
    assert run(bundle, "more", *arguments) == 0
    assert "missed, nothing was predicted to meet it" in capsys.readouterr().err


def test_ctrl_c_leaves_the_context_as_it_was(bundle: str, capsys, monkeypatch) -> None:
    run(bundle, LONG, "--context", "trip")
    before = shown("trip", capsys)
    pressed: list[str] = []

    def press_once(text: str) -> None:
        if not pressed:
            os.kill(os.getpid(), signal.SIGINT)
        pressed.append(text)

    monkeypatch.setattr("pliant.cli.context_chat.show", press_once)
    assert main(["run", bundle, "more", "--context", "trip"]) == 130
    assert "stopped, the context is as before]" in capsys.readouterr().err
    assert shown("trip", capsys) == before


def test_a_slow_disk_is_not_read_from(bundle: str, capsys) -> None:
    """Reading at a kilobyte a second takes longer than computing again."""
    run(bundle, LONG, "--context", "trip")
    for storage, is_read in (("1kB/s,1s", False), ("10GB/s,0us", True)):
        count = shown("trip", capsys)["num_tokens"] - 1
        assert run(bundle, "more", "--context", "trip", "--emulate-storage", storage) == 0
        err = capsys.readouterr().err
        assert f"context of {count} tokens" in err and ("from disk" in err) == is_read


def test_a_full_context_is_an_error_or_shortened(tmp_path: Path, capsys, caplog) -> None:
    bundle = str(make_bundle_with_tlm(tmp_path / "bundle", context=512).path)
    while run(bundle, LONG, "--context", "trip") == 0:
        before = shown("trip", capsys)
        assert before["num_tokens"] < 512
    err = capsys.readouterr().err
    assert "--when-full compress" in err and "begin a new one" in err
    assert shown("trip", capsys) == before
    assert run(bundle, LONG, "--context", "trip", "--when-full", "compress") == 0
    assert "oldest turns were shortened" in caplog.text
    users = [text for role, text in messages(shown("trip", capsys)) if role == "user"]
    assert len(users[0]) < len(users[-1]) == len(LONG)


def test_options_become_those_of_contexts() -> None:
    assert context_options(None, None, None) == ContextOptions()
    assert context_options("1.5MiB", "200MB/s,500ms", "compress") == ContextOptions(
        memory_bytes=3 << 19, storage=StorageProfile(2e8, 0.5), overflow="compress"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--context-memory", "much"], "--context-memory: 'much' is no size"),
        (["--context-memory", "0"], "--context-memory: memory_bytes is 0"),
        (["--emulate-storage", "fast"], "--emulate-storage: storage 'fast'"),
        (["--when-full", "forget"], "--when-full is 'forget'; allowed: error, compress"),
        (["--when-full", "compress"], "tiny has none: make one"),
        (["--ttft", "0.5", "--compress", "0.5"], "prompts, and those of a --context stay whole"),
        (["--level", "0.77"], "0.77"),
        (["--context", ""], "title must have"),
        (["--context", "a\tb"], "title must have"),
    ],
)
def test_bad_options_are_one_line_errors(
    bundle: str, capsys, arguments: list[str], message: str
) -> None:
    assert run(bundle, "hello", "--context", "trip", *arguments) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("new context")]
    assert out == "" and len(lines) == 1 and message in lines[0]


@pytest.mark.parametrize("option", ["--context-memory", "--emulate-storage", "--when-full"])
def test_options_of_contexts_need_one(bundle: str, capsys, option: str) -> None:
    assert run(bundle, "hello", option, "1") == 2
    assert f"error: {option} is about persistent contexts" in capsys.readouterr().err


def test_contexts_that_cannot_go_on_are_refused(bundle: str, tmp_path: Path, capsys) -> None:
    assert run(bundle, "hello", "--context", "trip") == 0
    assert run(bundle, "hello", "--context", "trip", "--system", "Be kind.") == 2
    assert "keeps the system message" in capsys.readouterr().err
    other = str(make_tiny_bundle(tmp_path / "other", context=512, hidden=128).path)
    assert run(other, "hello", "--context", "trip") == 2
    assert "belongs to another model" in capsys.readouterr().err
    assert run(bundle, "hello", "--context", "small", "--context-memory", "1kB") == 2
    assert "raise the budget (--context-memory)" in capsys.readouterr().err
