"""What the store keeps for whom, and for how long. Faults are in test_faults."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pliant.contexts.chunks import StoredSections
from pliant.contexts.store import Store
from pliant.errors import ChunkMissingError
from support.stored_chunks import CONTEXTS, make_chunk, make_key, whole

A, B, C = CONTEXTS
KEYS = [make_key(number) for number in range(8)]
CHUNKS = [make_chunk(number) for number in range(8)]
BIG = (40_000, 60_000)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path) as store:
        yield store


def put_all(store: Store, context: str, numbers: range = range(8)) -> None:
    for number in numbers:
        assert store.put(context, KEYS[number], CHUNKS[number])


def test_a_chunk_comes_back_as_it_was_put(store: Store) -> None:
    put_all(store, A)
    for key, chunk in zip(KEYS, CHUNKS, strict=True):
        stored = store.read(key)
        assert whole(stored) == chunk.payload
        assert stored.info == store.info(key)
        assert (stored.info.bits, stored.info.level) == (chunk.bits, chunk.level)
        assert (stored.info.header, stored.info.sections) == (chunk.header, chunk.sections)
        assert stored.info.nbytes == len(chunk.payload)


def test_sections_are_read_alone_in_any_order(store: Store) -> None:
    put_all(store, A)
    payload = bytes(CHUNKS[0].payload)
    parts = [payload[0:100], payload[100:101], payload[101:401], payload[401:451]]
    for wanted in ([2], [0, 1], [3, 0], [1, 2, 3], [2, 2], []):
        stored = store.read(KEYS[0], wanted)
        assert stored.indices == tuple(wanted)
        assert list(map(bytes, stored.data)) == [parts[index] for index in wanted]
    for wanted in ([4], [-1]):
        with pytest.raises(IndexError, match="has 4"):
            store.read(KEYS[0], wanted)


def test_many_are_read_at_once_and_the_missing_ones_said(store: Store) -> None:
    put_all(store, A, range(4))
    put_all(store, B, range(4, 7))
    wanted = [(KEYS[n], None if n % 2 else [0, 3]) for n in (5, 7, 0, 3, 6, 1)]
    outcomes = store.read_many(wanted)
    assert isinstance(outcomes[1], ChunkMissingError)
    for (key, sections), outcome in zip(wanted, outcomes, strict=True):
        if not isinstance(outcome, ChunkMissingError):
            alone = store.read(key, sections)
            assert isinstance(outcome, StoredSections) and whole(outcome) == whole(alone)
    assert store.stat().missing == 1


def test_what_is_not_stored_is_missing(store: Store) -> None:
    assert not store.has(KEYS[0])
    assert store.info(KEYS[0]) is None
    with pytest.raises(ChunkMissingError, match="not stored"):
        store.read(KEYS[0])


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        put_all(store, A)
        before = store.stat()
    with Store(tmp_path) as store:
        assert [whole(store.read(key)) for key in KEYS] == [chunk.payload for chunk in CHUNKS]
        after = store.stat()
        assert (after.num_chunks, after.disk_bytes) == (8, before.disk_bytes)
        assert store.verify().problems == ()
        assert store.verify().num_chunks == 8


def test_a_lost_index_is_made_again(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        put_all(store, A, range(4))
        put_all(store, B, range(2, 6))
    for path in (tmp_path / "kv").glob("index.sqlite*"):
        path.unlink()
    with Store(tmp_path) as store:
        assert all(whole(store.read(KEYS[n])) == CHUNKS[n].payload for n in range(6))
        store.drop_context(A)
        assert [store.has(key) for key in KEYS] == [False, False, *[True] * 4, False, False]


def test_a_shared_chunk_is_written_once_and_outlives_its_writer(store: Store) -> None:
    put_all(store, A, range(4))
    size = store.stat().disk_bytes
    assert store.share(B, [*KEYS[2:4], KEYS[7]]) == 2
    put_all(store, C, range(2, 3))
    stats = store.stat()
    assert stats.num_chunks == 4 and stats.num_references == 7
    assert stats.disk_bytes - size < 400
    store.drop_context(A)
    assert [store.has(key) for key in KEYS[:4]] == [False, False, True, True]
    assert whole(store.read(KEYS[3])) == CHUNKS[3].payload
    store.drop_context(B)
    assert [store.has(key) for key in KEYS[:4]] == [False, False, True, False]
    store.drop_context(C)
    assert store.stat().num_chunks == store.stat().disk_bytes == store.stat().num_references == 0


def test_more_bits_take_the_place_of_fewer(store: Store) -> None:
    for bits, kept in ((4, 4), (2, 4), (8, 8), (4, 8)):
        assert store.put(A, KEYS[0], make_chunk(bits, bits=bits))
        assert store.read(KEYS[0]).info.bits == kept
        assert whole(store.read(KEYS[0])) == make_chunk(kept).payload
    assert store.stat().num_chunks == 1


def test_more_bits_are_found_again_without_the_index(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for context, bits in ((A, 2), (A, 8), (B, 4)):
            store.put(context, KEYS[0], make_chunk(bits, bits=bits))
    for path in (tmp_path / "kv").glob("index.sqlite*"):
        path.unlink()
    with Store(tmp_path) as store:
        assert whole(store.read(KEYS[0])) == make_chunk(8).payload
        store.drop_context(A)
        assert whole(store.read(KEYS[0])) == make_chunk(8).payload


def test_released_chunks_are_gone_and_their_space_comes_back(store: Store) -> None:
    chunks = [make_chunk(number, sections=(400_000,)) for number in range(8)]
    for key, chunk in zip(KEYS, chunks, strict=True):
        store.put(A, key, chunk)
    store.share(B, KEYS[:1])
    store.release(A, KEYS[:7])
    assert [store.has(key) for key in KEYS] == [True, *[False] * 6, True]
    assert store.stat().disk_bytes < 900_000
    assert whole(store.read(KEYS[0])) == chunks[0].payload
    assert whole(store.read(KEYS[7])) == chunks[7].payload
    assert store.verify().problems == ()


def test_a_reader_is_not_disturbed_by_compaction(store: Store) -> None:
    for number, key in enumerate(KEYS):
        store.put(A, key, make_chunk(number, sections=(300_000,)))
    stop, seen = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            seen.append(whole(store.read(KEYS[7])) == make_chunk(7, sections=(300_000,)).payload)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(7):
        store.release(A, [KEYS[number]])
    stop.set()
    reader.join()
    assert all(seen) and store.stat().corrupt == 0


def test_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    failures: list[object] = []
    with Store(tmp_path, quota_bytes=1_000_000) as store:

        def work(seed: int) -> None:
            source = random.Random(seed)
            for _ in range(60):
                number, context = source.randrange(8), source.choice(CONTEXTS)
                store.put(context, KEYS[number], make_chunk(number, sections=BIG))
                for outcome in store.read_many([(key, None) for key in KEYS]):
                    if isinstance(outcome, StoredSections):
                        number = KEYS.index(outcome.info.key)
                        if whole(outcome) != make_chunk(number, sections=BIG).payload:
                            failures.append(outcome.info)
                    elif not isinstance(outcome, ChunkMissingError):
                        failures.append(outcome)
                source.choice([store.drop_context, store.touch, store.sync])(context)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert store.verify().problems == ()
        assert store.stat().disk_bytes <= 1_000_000


def test_the_oldest_contexts_make_room_under_the_quota(tmp_path: Path) -> None:
    with Store(tmp_path, quota_bytes=450_000) as store:
        for context, numbers in ((A, range(2)), (B, range(2, 4))):
            for number in numbers:
                assert store.put(context, KEYS[number], make_chunk(number, sections=BIG))
        store.touch(A)
        assert store.put(C, KEYS[4], make_chunk(4, sections=BIG))
        assert [store.has(key) for key in KEYS[:5]] == [True, True, False, False, True]
        stats = store.stat()
        assert stats.evicted_contexts == 1 and stats.disk_bytes <= 450_000
        assert not store.put(A, KEYS[5], make_chunk(5, sections=(500_000,)))
        assert store.stat().failed_puts == 1
        assert [store.has(key) for key in KEYS[:5]] == [True, True, False, False, True]


def test_a_context_alone_stays_within_the_quota(tmp_path: Path) -> None:
    with Store(tmp_path, quota_bytes=250_000) as store:
        stored = [
            store.put(A, key, make_chunk(number, sections=BIG)) for number, key in enumerate(KEYS)
        ]
        assert stored == [True, True, *[False] * 6]
        assert store.stat().disk_bytes <= 250_000


def test_a_smaller_quota_is_kept_from_the_start(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for number, context in enumerate(CONTEXTS):
            store.put(context, KEYS[number], make_chunk(number, sections=BIG))
    with Store(tmp_path, quota_bytes=210_000) as store:
        assert [store.has(key) for key in KEYS[:3]] == [False, True, True]
    with Store(tmp_path, quota_bytes=0) as store:
        assert store.stat().disk_bytes == 0
        assert not store.put(A, KEYS[0], CHUNKS[0])


def test_room_is_made_on_demand(store: Store) -> None:
    for number, context in enumerate(CONTEXTS):
        store.put(context, KEYS[number], make_chunk(number, sections=BIG))
    assert store.make_room(150_000)
    assert [store.has(key) for key in KEYS[:3]] == [False, False, True]
    assert store.make_room(10_000_000)
    assert not store.make_room(10_000_000)
    assert store.stat().disk_bytes == 0


def test_only_contexts_that_live_are_retained(store: Store) -> None:
    put_all(store, A, range(2))
    put_all(store, B, range(2, 4))
    store.retain([B, C])
    assert [store.has(key) for key in KEYS[:4]] == [False, False, True, True]


def test_files_are_private_and_named_by_the_store(store: Store, tmp_path: Path) -> None:
    put_all(store, A)
    assert (tmp_path / "kv").stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "kv").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    for name in ("../" + "a" * 29, "A" * 32, "", "a" * 31):
        with pytest.raises(ValueError, match="not the id of a context"):
            store.put(name, KEYS[0], make_chunk(99, bits=32))


def test_syncing_says_whether_it_worked(store: Store) -> None:
    put_all(store, A)
    assert store.sync(A)
    assert not store.sync(B)


def test_a_closed_store_has_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put_all(store, A)
    store.close()
    store.close()
    assert not store.put(A, KEYS[0], CHUNKS[0])
    assert not store.has(KEYS[0])
    with pytest.raises(ChunkMissingError):
        store.read(KEYS[0])
