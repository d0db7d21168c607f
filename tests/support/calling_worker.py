"""A process that calls, forks and deletes contexts until it is killed.

What it is about to do and what was acknowledged goes to the parent, a JSON document each.
"""

import json
import random
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pliant.bundle import open_bundle
from pliant.contexts.context import Context
from pliant.contexts.contexts import Contexts
from pliant.contexts.options import ContextOptions
from pliant.engine.model import ElasticModel
from pliant.engine.options import EngineOptions
from support.storage import FAST

# Contexts of an app keep to one level, so that a history can be computed again as one prompt.
LEVELS = {"small": 0.3, "middle": 0.5, "full": 1.0}
MOST_CONTEXTS = 8
MOST_TOKENS = 300
MAX_TOKENS = 3


def options(model: ElasticModel) -> ContextOptions:
    """Lossless, with memory and disk for part of the contexts only."""
    kv_bytes = model.engine.kv_bytes(1)
    return ContextOptions(
        memory_bytes=1200 * kv_bytes, quota_bytes=2000 * kv_bytes, bits=16, storage=FAST
    )


class Caller:
    """A thread's contexts, and what it says about them."""

    def __init__(
        self, contexts: Contexts, mine: list[Context], seed: int, pipe: Connection, lock: Any
    ) -> None:
        self._contexts = contexts
        self._mine = mine
        self._random = random.Random(seed)
        self._pipe = pipe
        self._lock = lock

    def run(self) -> None:
        while True:
            choice = self._random.random()
            if not self._mine or choice < 0.05:
                self._create()
            elif choice < 0.15:
                self._fork()
            elif choice < 0.25 or len(self._mine) > MOST_CONTEXTS // 2:
                self._delete(self._random.choice(self._mine))
            else:
                self._call()

    def _create(self) -> None:
        self._say("creating")
        context = self._contexts.create(self._random.choice(list(LEVELS)))
        self._mine.append(context)
        self._say("created", context=context.id)

    def _fork(self) -> None:
        parent = self._random.choice(self._mine)
        self._say("forking", parent=parent.id)
        fork = parent.fork()
        self._say("forked", context=fork.id, parent=parent.id)
        self._mine.append(fork)

    def _delete(self, context: Context) -> None:
        self._mine.remove(context)
        self._say("deleting", context=context.id)
        context.delete()
        self._say("deleted", context=context.id)

    def _call(self) -> None:
        context = self._random.choice(self._mine)
        if context.stat().num_tokens > MOST_TOKENS:
            self._delete(context)
            return
        new = [self._random.randrange(6, 300) for _ in range(self._random.randint(1, 60))]
        self._say("calling", context=context.id, new=new)
        answer = context.call(new, level=LEVELS[context.app], max_tokens=MAX_TOKENS)
        self._say("called", context=context.id, tokens=[*new, *answer.tokens])

    def _say(self, op: str, **fields: Any) -> None:
        with self._lock:
            self._pipe.send_bytes(json.dumps({"op": op, **fields}).encode())


def work(bundle: str, root: str, seed: int, pipe: Connection) -> None:
    """Two threads share the contexts there are."""
    model = ElasticModel(open_bundle(Path(bundle)), EngineOptions(threads=1, slots=4))
    contexts = Contexts(model, Path(root), options(model))
    opened = [contexts.open(app, info.id) for app in LEVELS for info in contexts.list(app)]
    lock = threading.Lock()
    callers = [Caller(contexts, opened[part::2], seed + part, pipe, lock) for part in range(2)]
    threads = [threading.Thread(target=caller.run) for caller in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
