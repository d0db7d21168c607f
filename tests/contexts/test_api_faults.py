"""What happens to stored KV must cost a call time, never a token: through `Contexts`."""

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pliant.contexts.contexts import Contexts, ContextsStat
from pliant.contexts.packs import START
from pliant.contexts.verify import verify
from pliant.engine.model import ElasticModel
from support.answers import check_answer
from support.evictions import forget_memory

Open = Callable[..., Contexts]
RANDOM = np.random.default_rng(11)
NUM_CONTEXTS = 4


def tokens(count: int) -> list[int]:
    return RANDOM.integers(6, 300, count).tolist()


@dataclass
class Damage:
    """Things that happen to the folder `kv`; what they change depends on which chunks there are."""

    kv: Path

    def packs(self) -> list[Path]:
        return sorted(self.kv.glob("*.pack"))

    def flip_a_bit_of_every_pack(self) -> None:
        for path in self.packs():
            with path.open("r+b") as file:
                # In the last chunk's payload.
                file.seek(-100, os.SEEK_END)
                byte = file.read(1)
                file.seek(-100, os.SEEK_END)
                file.write(bytes([byte[0] ^ 4]))

    def flip_bits_everywhere(self) -> None:
        for path in self.packs():
            data = np.fromfile(path, np.uint8)
            places = RANDOM.integers(START, len(data), 60)
            data[places] ^= 1 << RANDOM.integers(0, 8, 60).astype(np.uint8)
            with path.open("r+b") as file:
                file.write(data.tobytes())

    def truncate_packs(self) -> None:
        for path in self.packs():
            os.truncate(path, path.stat().st_size * 2 // 3)

    def empty_packs(self) -> None:
        for path in self.packs():
            os.truncate(path, 0)

    def swap_packs(self) -> None:
        """Every context finds another's KV."""
        first, *others = self.packs()
        contents = [path.read_bytes() for path in (*others, first)]
        for path, content in zip((first, *others), contents, strict=True):
            with path.open("r+b") as file:
                file.write(content)
                file.truncate()

    def delete_packs(self) -> None:
        for path in self.packs():
            path.unlink()

    def delete_the_index(self) -> None:
        for path in self.kv.glob("index.sqlite*"):
            path.unlink()

    def delete_the_folder(self) -> None:
        shutil.rmtree(self.kv)

    def overwrite_the_index(self) -> None:
        self.delete_the_index()
        (self.kv / "index.sqlite").write_bytes(RANDOM.bytes(20_000))

    def damage_the_index(self) -> None:
        path = self.kv / "index.sqlite"
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(RANDOM.bytes(path.stat().st_size - 4096))


LOSSY = [
    Damage.flip_a_bit_of_every_pack,
    Damage.flip_bits_everywhere,
    Damage.truncate_packs,
    Damage.empty_packs,
    Damage.swap_packs,
    Damage.delete_packs,
    Damage.delete_the_folder,
]
OF_THE_INDEX = [Damage.delete_the_index, Damage.overwrite_the_index, Damage.damage_the_index]


@pytest.fixture
def histories(open_contexts: Open) -> Iterator[dict[str, list[int]]]:
    """Stored contexts, two of which share chunks, and all of their tokens."""
    contexts = open_contexts()
    made = [contexts.create("app") for _ in range(NUM_CONTEXTS - 1)]
    for context in made:
        context.call(tokens(220), max_tokens=4)
    contexts.flush()
    made.append(made[0].fork())
    for context in (made[0], made[-1]):
        context.call(tokens(40), max_tokens=4)
    contexts.flush()
    found = {c.id: list(contexts._shared.journal.history(c.id).tokens) for c in made}
    contexts.close()
    yield found


def check_answers(
    contexts: Contexts, model: ElasticModel, histories: dict[str, list[int]]
) -> ContextsStat:
    """Call every context; the answers must be those to the whole history as one prompt."""
    for context, history in histories.items():
        new = tokens(5)
        answer = contexts.open("app", context).call(new, max_tokens=6)
        check_answer(model, [*history, *new], answer.tokens)
        history += [*new, *answer.tokens]
    contexts.flush()
    return contexts.stat()


def check_all_is_well(
    contexts: Contexts, model: ElasticModel, histories: dict[str, list[int]]
) -> None:
    """Everything is stored again and read back."""
    shared = contexts._shared
    assert verify(shared.journal, shared.store).problems == ()
    forget_memory(contexts)
    before = contexts.stat()
    after = check_answers(contexts, model, histories)
    assert after.restored_tokens["recomputed"] == before.restored_tokens["recomputed"]
    assert after.store.corrupt == before.store.corrupt


def noticed(stat: ContextsStat) -> int:
    """All counters of what the store found or failed to do."""
    store = stat.store
    return store.corrupt + store.missing + store.repairs + store.failed_puts


@pytest.mark.parametrize("damage", LOSSY, ids=lambda damage: damage.__name__)
def test_damage_while_closed(
    open_contexts: Open,
    model: ElasticModel,
    histories: dict[str, list[int]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Damage], None],
) -> None:
    damage(Damage(tmp_path / "contexts" / "kv"))
    with caplog.at_level(logging.WARNING):
        contexts = open_contexts()
        stat = check_answers(contexts, model, histories)
    assert stat.restored_tokens["recomputed"] > 0
    if damage is not Damage.delete_the_folder:  # Then nothing says that there was one.
        assert noticed(stat) > 0 and caplog.records
    check_all_is_well(contexts, model, histories)


@pytest.mark.parametrize("damage", LOSSY, ids=lambda damage: damage.__name__)
def test_damage_while_open(
    open_contexts: Open,
    model: ElasticModel,
    histories: dict[str, list[int]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Damage], None],
) -> None:
    contexts = open_contexts()
    check_answers(contexts, model, histories)
    forget_memory(contexts)
    damage(Damage(tmp_path / "contexts" / "kv"))
    with caplog.at_level(logging.WARNING):
        stat = check_answers(contexts, model, histories)
    assert stat.restored_tokens["recomputed"] > 0
    assert noticed(stat) > 0 and caplog.records
    contexts.close()
    check_all_is_well(open_contexts(), model, histories)


@pytest.mark.parametrize("damage", OF_THE_INDEX, ids=lambda damage: damage.__name__)
def test_an_index_that_is_lost_costs_no_chunk(
    open_contexts: Open,
    model: ElasticModel,
    histories: dict[str, list[int]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Damage], None],
) -> None:
    damage(Damage(tmp_path / "contexts" / "kv"))
    with caplog.at_level(logging.WARNING):
        contexts = open_contexts()
        stat = check_answers(contexts, model, histories)
    assert stat.restored_tokens["recomputed"] == 0
    assert noticed(stat) > 0 and caplog.records
    check_all_is_well(contexts, model, histories)


def test_a_deleted_context_leaves_nothing_behind(
    open_contexts: Open, model: ElasticModel, tmp_path: Path
) -> None:
    """But for what a fork of it shares."""
    contexts = open_contexts()
    context = contexts.create("app")
    context.call(tokens(200), max_tokens=4)
    contexts.flush()
    fork = context.fork()
    context.call(tokens(100), max_tokens=4)
    contexts.flush()
    context.delete()
    shared = contexts._shared
    assert packs_of(tmp_path) == {fork.id}
    assert all(shared.store.has(key) for key in shared.memory._chunks)
    check_answers(contexts, model, {fork.id: list(shared.journal.history(fork.id).tokens)})
    assert contexts.stat().restored_tokens["recomputed"] == 0


def test_a_context_may_be_deleted_while_it_is_stored(
    open_contexts: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = open_contexts()
    context, is_deleted, is_put = contexts.create("app"), threading.Event(), threading.Event()
    put = contexts._shared.store.put

    def slow_put(*arguments) -> bool:
        is_put.set()
        is_deleted.wait(0.3)
        return put(*arguments)

    monkeypatch.setattr(contexts._shared.store, "put", slow_put)
    context.call(tokens(300), max_tokens=4)
    assert is_put.wait(10)
    context.delete()
    is_deleted.set()
    contexts.flush()
    assert packs_of(tmp_path) == set()
    assert contexts.stat().memory.used == 0


def packs_of(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "contexts" / "kv").glob("*.pack")}
