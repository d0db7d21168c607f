"""The two engines a benchmark compares, each in a process of its own, told what to run in turn.

A worker that has no order waits on its pipe and uses no processor.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil

DEPTH = 512


@dataclass(frozen=True)
class Task:
    """Prefill `tokens` from position 0, or decode `tokens` steps after DEPTH; at `level`.

    `is_bare`: without the level's adapter.
    """

    kind: Literal["prefill", "decode", "memory"]
    tokens: int = 0
    level: float = 1.0
    is_bare: bool = False


class Worker:
    """A process that runs tasks; `seconds` of the last one is the answer."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.ready: Any = self._pipe.recv()

    def run(self, task: Task) -> Any:
        self._pipe.send(task)
        return self._pipe.recv()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join()


def pliant_worker(
    pipe: Connection, path: Path, threads: int, layout: str, governed: bool = True
) -> None:
    """Answers with (seconds, seconds of them outside ggml), or resident bytes.

    Without being `governed` it never looks at the load and never gives up a thread.
    """
    from pliant.bundle import open_bundle
    from pliant.engine.engine import Engine
    from pliant.engine.options import EngineOptions
    from pliant.engine.span import Span

    bundle = open_bundle(path)
    engine = Engine(
        bundle,
        EngineOptions(layout=layout, threads=threads, context_length=_context(bundle), slots=2),  # type: ignore[arg-type]
    )
    if not governed:
        engine._threads.begin = lambda: threads  # type: ignore[method-assign]
        engine._threads.end = lambda: None  # type: ignore[method-assign]
    inside = _time_inside(engine)
    tokens = _tokens(bundle.architecture.vocab_size)

    def run(task: Task) -> Any:
        if task.kind == "memory":
            return psutil.Process().memory_info().rss
        level = bundle.level(task.level)
        size = level.plan if task.is_bare else level
        inside[0] = 0.0
        start = time.perf_counter()
        if task.kind == "prefill":
            engine.forward(size, [Span(0, tokens[: task.tokens], 0)])
        else:
            for step in range(task.tokens):
                engine.forward(size, [Span(1, tokens[step : step + 1], _depth(bundle) + step)])
        seconds = time.perf_counter() - start
        return seconds, seconds - inside[0]

    _serve(pipe, run)


def llama_worker(pipe: Connection, path: Path, threads: int, repack: bool) -> None:
    """Answers with (seconds, None), or resident bytes."""
    import ctypes

    import llama_cpp as lib

    silent = lib.llama_log_callback(lambda *_: None)
    lib.llama_log_set(silent, ctypes.c_void_p())
    params = lib.llama_model_default_params()
    params.n_gpu_layers = 0
    params.use_extra_bufts = repack
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    options = lib.llama_context_default_params()
    options.n_ctx = min(2048, lib.llama_model_n_ctx_train(model))
    options.n_batch = options.n_ubatch = DEPTH
    options.n_threads = options.n_threads_batch = threads
    context = lib.llama_init_from_model(model, options)
    memory = lib.llama_get_memory(context)
    vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    tokens = _tokens(vocab)
    depth = min(DEPTH, options.n_ctx // 2)
    batch = lib.llama_batch_init(DEPTH, 0, 1)

    def decode(count: int, start: int) -> None:
        batch.n_tokens = count
        for index in range(count):
            batch.token[index] = tokens[index]
            batch.pos[index] = start + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = index == count - 1
        if lib.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (vocab,)).copy()

    def run(task: Task) -> Any:
        if task.kind == "memory":
            return psutil.Process().memory_info().rss
        if task.kind == "prefill":
            lib.llama_memory_seq_rm(memory, 0, -1, -1)
        elif lib.llama_memory_seq_pos_max(memory, 0) < depth - 1:
            lib.llama_memory_seq_rm(memory, 0, -1, -1)
            decode(depth, 0)
        else:
            lib.llama_memory_seq_rm(memory, 0, depth, -1)
        start = time.perf_counter()
        if task.kind == "prefill":
            decode(task.tokens, 0)
        else:
            for step in range(task.tokens):
                decode(1, depth + step)
        return time.perf_counter() - start, None

    _serve(pipe, run)


def spin(pipe: Connection) -> None:
    """Keep one core busy until killed or orphaned, in a session of its own as any other program."""
    if hasattr(os, "setsid"):
        os.setsid()
    pipe.send(os.getpid())
    parent = os.getppid()
    while os.getppid() == parent:
        for _ in range(1_000_000):
            pass


def _serve(pipe: Connection, run: Callable[[Task], Any]) -> None:
    pipe.send(os.getpid())
    while (task := pipe.recv()) is not None:
        pipe.send(run(task))


def _time_inside(engine: Any) -> list[float]:
    """Adds up the seconds the engine's backend computes, so that the rest is Python's."""
    total = [0.0]
    backend = engine._backend
    compute = backend.compute

    def timed(graph: int) -> None:
        start = time.perf_counter()
        compute(graph)
        total[0] += time.perf_counter() - start

    backend.compute = timed
    return total


def _context(bundle: Any) -> int:
    return min(2048, bundle.architecture.context_length)


def _depth(bundle: Any) -> int:
    return min(DEPTH, _context(bundle) // 2)


def _tokens(vocab: int) -> list[int]:
    return np.random.default_rng(1).integers(5, vocab, DEPTH).tolist()
