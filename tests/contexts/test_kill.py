"""kill -9 under load: every acknowledged token is there, nothing is damaged, answers go on."""

import json
import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from pliant.bundle import Bundle
from pliant.cli import main
from pliant.contexts.contexts import Contexts
from pliant.engine.model import ElasticModel
from support.answers import check_answer
from support.calling_worker import LEVELS, MAX_TOKENS, options, work
from support.ledger import Ledger

LOAD_SECONDS = 0.5


@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_under_load(
    context_bundle: Bundle,
    model: ElasticModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kills: int,
) -> None:
    monkeypatch.setenv("PLIANT_HOME", str(tmp_path))
    root, ledger, source = tmp_path / "contexts", Ledger(), random.Random(kills)
    # Spread evenly over the time under load, in random order; every fourth from the start on.
    moments = [(part + source.random()) / kills * LOAD_SECONDS for part in range(kills)]
    source.shuffle(moments)
    checked = 0
    for number, seconds in enumerate(moments):
        process, pipe = start(context_bundle, root, seed=2 * number)
        for line in lines_until_killed(process, pipe, seconds, is_early=number % 4 == 3):
            ledger.note(line)
        assert main(["contexts", "verify"]) == 0
        with Contexts(model, root, options(model)) as contexts:
            ledger.compare(histories(contexts), MAX_TOKENS)
            checked += go_on(contexts, model, ledger, source)
            assert contexts.stat().store.corrupt == 0
    assert checked > kills
    assert ledger.acknowledged > 2 * kills


def start(bundle: Bundle, root: Path, seed: int) -> tuple[Any, Connection]:
    """A worker, forked from a server that has imported everything already."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["pliant.contexts.contexts", "pliant.engine.model"])
    ours, theirs = server.Pipe(duplex=False)
    process = server.Process(target=work, args=(str(bundle.path), str(root), seed, theirs))
    process.start()
    theirs.close()
    return process, ours


def lines_until_killed(
    process: Any, pipe: Connection, seconds: float, is_early: bool
) -> list[dict[str, Any]]:
    """What a worker says until it is killed, `seconds` after it began to work or, if it
    `is_early`, after it was started."""
    lines = [] if is_early else [pipe.recv_bytes()]
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if pipe.poll(left):
            lines.append(pipe.recv_bytes())
    process.kill()
    process.join()
    assert process.exitcode == -9
    try:
        while True:
            lines.append(pipe.recv_bytes())
    except (EOFError, OSError):  # The last line may be half of one.
        pipe.close()
    return [json.loads(line) for line in lines]


def histories(contexts: Contexts) -> dict[str, list[int]]:
    infos = [info for app in LEVELS for info in contexts.list(app)]
    journal = contexts._shared.journal
    return {info.id: list(journal.history(info.id).tokens) for info in infos}


def go_on(contexts: Contexts, model: ElasticModel, ledger: Ledger, source: random.Random) -> int:
    """Call two contexts and compare with the whole history as one prompt; how many there were."""
    infos = [info for app in LEVELS for info in contexts.list(app)]
    chosen = source.sample(infos, min(2, len(infos)))
    for info in chosen:
        new, level = [source.randrange(6, 300) for _ in range(9)], LEVELS[info.app]
        prompt = [*ledger.tokens[info.id], *new]
        answer = contexts.open(info.app, info.id).call(new, level=level, max_tokens=MAX_TOKENS)
        check_answer(model, prompt, answer.tokens, level)
        ledger.tokens[info.id] = [*prompt, *answer.tokens]
    return len(chosen)
