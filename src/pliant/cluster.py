"""Work shared on a Ray cluster (needs the `ray` extra). pliant must be installed on every node."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pliant.errors import ElastifyError, MissingExtraError, PliantError

ANSWER_SECONDS = 10.0


@contextmanager
def connected(address: str) -> Iterator[list[int]]:
    """Connects to the Ray cluster at `address` (host:port), or with "auto" to this machine's;
    with "local" starts one here, and ends it. Gives the number of CPUs of each of its nodes.

    Raises MissingExtraError without ray, and ElastifyError if there is no cluster or it is empty.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingExtraError("a cluster needs ray: pip install 'pliant[ray]'") from error
    _check_address(address)
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ElastifyError(
            f"no Ray cluster answers at {address!r}: start one with `ray start --head` ({error})"
        ) from error
    try:
        yield _cpus(ray.nodes())
    finally:
        ray.shutdown()


def run_tasks(
    task: Callable[..., Any], shared: Any, arguments: Sequence[tuple[Any, ...]], threads: int
) -> Iterator[Any]:
    """`task(threads, shared, *each)` for each of `arguments`, on `threads` CPUs of a node.

    `shared` travels through Ray's object store once. Results come in the order of `arguments`,
    each as soon as it and those before it are there. Raises what pliant raised in a task, and
    ElastifyError for other failures.
    """
    import ray

    remote = ray.remote(task).options(num_cpus=threads)
    reference = ray.put(shared)
    pending = [remote.remote(threads, reference, *each) for each in arguments]
    try:
        for result in pending:
            yield ray.get(result)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PliantError):
            raise error.cause from error
        raise ElastifyError(f"a task on the Ray cluster failed: {error.cause!r}") from error
    except ray.exceptions.RayError as error:
        raise ElastifyError(f"the Ray cluster failed: {error}") from error


def _check_address(address: str) -> None:
    """Asks for an answer at once: Ray itself would try for minutes, and say so line by line."""
    if address in ("auto", "local") or "://" in address:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ElastifyError(
            f"{address!r} is no cluster's address: give host:port, auto (of "
            "`ray start --head` on this machine) or local"
        )
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise ElastifyError(
            f"no Ray cluster answers at {address!r}: start one with `ray start --head` ({error})"
        ) from error


def _cpus(nodes: Sequence[dict[str, Any]]) -> list[int]:
    cpus = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    cpus = [count for count in cpus if count > 0]
    if not cpus:
        raise ElastifyError("the Ray cluster has no CPUs to work on")
    return cpus
