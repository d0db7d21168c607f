"""Random walks of the store against a dictionary, with crashes and damage on the way."""

import random
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pliant.contexts.store import Store
from pliant.errors import ChunkCorruptError, ChunkMissingError
from support.stored_chunks import CONTEXTS, make_chunk, make_key, whole

numbers = st.integers(0, 9)
contexts = st.sampled_from(CONTEXTS)
seeds = st.integers(0, 2**32 - 1)
SECTIONS = (30, 5, 200)


class StoreWalk(RuleBasedStateMachine):
    """`bits` is what must be readable: key number -> bits; `users` who refers to it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store(self.folder)
        self.bits: dict[int, int] = {}
        self.users: dict[int, set[str]] = {number: set() for number in range(10)}
        self.damaged = False

    @rule(context=contexts, number=numbers, bits=st.sampled_from([2, 4, 8]))
    def put(self, context: str, number: int, bits: int) -> None:
        assert self.store.put(context, make_key(number), make_chunk(number, bits, SECTIONS))
        self.bits[number] = max(bits, self.bits.get(number, 0))
        self.users[number].add(context)

    @rule(context=contexts, number=numbers)
    def share(self, context: str, number: int) -> None:
        if self.store.share(context, [make_key(number)]):
            self.users[number].add(context)
        else:
            assert self.damaged or number not in self.bits

    @rule(context=contexts, number=numbers)
    def release(self, context: str, number: int) -> None:
        self.store.release(context, [make_key(number)])
        self._lose(context, number)

    @rule(context=contexts)
    def drop(self, context: str) -> None:
        self.store.drop_context(context)
        for number in range(10):
            self._lose(context, number)

    def _lose(self, context: str, number: int) -> None:
        self.users[number].discard(context)
        if not self.users[number]:
            self.bits.pop(number, None)

    @rule(context=contexts)
    def compact(self, context: str) -> None:
        self.store._shelf.compact(context)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store(self.folder)

    @rule()
    def crash(self) -> None:
        """The files as another process would find them now."""
        copy = Path(tempfile.mkdtemp())
        shutil.copytree(self.folder, copy, dirs_exist_ok=True)
        self.store.close()
        shutil.rmtree(self.folder)
        self.folder, self.store = copy, Store(copy)

    @rule(seed=seeds, with_index=st.booleans(), cut=st.booleans())
    def damage(self, seed: int, with_index: bool, cut: bool) -> None:
        """A pack is cut, or a bit of it flips, and the index may be gone."""
        source = random.Random(seed)
        packs = sorted((self.folder / "kv").glob("*.pack"))
        self.store.close()
        if packs:
            path = source.choice(packs)
            content = bytearray(path.read_bytes())
            if cut:
                del content[source.randrange(len(content)) :]
            else:
                content[source.randrange(len(content))] ^= 1 << source.randrange(8)
            path.write_bytes(content)
        if not with_index:
            for path in (self.folder / "kv").glob("index.sqlite*"):
                path.unlink()
        self.store = Store(self.folder)
        self.damaged = True

    @invariant()
    def never_wrong(self) -> None:
        for number in range(10):
            try:
                stored = self.store.read(make_key(number))
                assert whole(stored) == make_chunk(number, 4, SECTIONS).payload
                assert self.damaged or stored.info.bits == self.bits[number]
            except (ChunkMissingError, ChunkCorruptError):
                assert self.damaged or number not in self.bits

    @invariant()
    def sums_agree(self) -> None:
        assert self.store._shelf.pack_bytes == self.store._shelf.index.pack_bytes()
        on_disk = sum(path.stat().st_size for path in (self.folder / "kv").glob("*.pack"))
        assert self.store.stat().disk_bytes == on_disk
        assert self.damaged or self.store.verify().problems == ()

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)


TestStoreWalk = StoreWalk.TestCase
TestStoreWalk.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
