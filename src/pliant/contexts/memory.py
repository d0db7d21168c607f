"""The memory of all contexts: engine slots and compressed chunks, within one budget.

Slots are `idle` (may be evicted), `running` (a call has it) or `saving` (a call ended, but not all
of its chunks are on the disk yet). The last two are locked in the pool.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from pliant.contexts.chunk import ChunkFormat, EncodedChunk
from pliant.contexts.costs import Worth
from pliant.contexts.identity import ChunkKey
from pliant.contexts.journal import ContextId
from pliant.contexts.pages import held_bytes, in_own_pages
from pliant.contexts.pool import Pool
from pliant.contexts.resident import ResidentSlot
from pliant.engine.engine import Engine
from pliant.errors import BusyError, MemoryBudgetError

State = Literal["idle", "running", "saving"]
_PoolKey = tuple[str, int | bytes]


@dataclass(frozen=True)
class MemoryUse:
    """Bytes now, and the most there ever were; `slots` and `chunks` are how many are held."""

    budget: int
    used: int
    peak: int
    slots: int
    chunks: int
    evicted_slots: int
    evicted_chunks: int


class Memory:
    """Owns slots and compressed chunks of one engine; safe to use from several threads.

    `worth` says which of them to evict first.
    """

    def __init__(self, engine: Engine, slots: Sequence[int], budget: int, worth: Worth) -> None:
        self._engine = engine
        self._worth = worth
        self._pool: Pool[_PoolKey] = Pool(budget)
        self._slots = {number: ResidentSlot(number, engine.context_length) for number in slots}
        self._states: dict[int, State] = {}
        self._chunks: dict[ChunkKey, EncodedChunk] = {}
        self._changed = threading.Condition()
        self._order: dict[int, None] = dict.fromkeys(slots)
        self._peak = 0
        self._evicted = {"slot": 0, "chunk": 0}
        self._reads = 0

    @property
    def use(self) -> MemoryUse:
        with self._changed:
            pool = self._pool
            return MemoryUse(
                pool.budget, pool.used, self._peak, len(self._states), len(self._chunks),
                self._evicted["slot"], self._evicted["chunk"],
            )  # fmt: skip

    def check(self) -> None:
        """Raises AssertionError with the numbers if ledger and content differ."""
        with self._changed:
            self._pool.check()
            chunks = sum(held_bytes(len(chunk.payload)) for chunk in self._chunks.values())
            slots = sum(self._pool.nbytes(("slot", number)) for number in self._states)
            assert chunks + slots <= self._pool.used, f"{chunks} + {slots}, {self._pool.used}"
            assert self._peak <= self._pool.budget

    @contextmanager
    def running(self, context: ContextId, num_tokens: int) -> Iterator[ResidentSlot]:
        """A slot for a call of `context` that needs room for up to `num_tokens` tokens.

        The slot that has the context, if one does. It is `saving` afterwards: see `settle`.
        Waits for slots that are being saved; raises BusyError if calls hold all others, and
        MemoryBudgetError if they, or this call alone, leave too little room.
        """
        slot = self._acquire(context, num_tokens)
        try:
            yield slot
        finally:
            with self._changed:
                self._shrink(slot)
                self._states[slot.number] = "saving"
                self._changed.notify_all()

    def hold(self, slot: ResidentSlot, num_tokens: int) -> None:
        """Note that a running slot has, or is about to have, so many tokens."""
        with self._changed:
            key = "slot", slot.number
            self._resize(key, max(self._pool.nbytes(key), self._engine.kv_bytes(num_tokens)))

    def settle(self, slot: ResidentSlot, epoch: int) -> None:
        """What the call `epoch` left in a slot is saved: it may be evicted from now on."""
        with self._changed:
            if self._is_saving(slot, epoch):
                self._states[slot.number] = "idle"
                self._pool.unlock(("slot", slot.number))
                self._changed.notify_all()

    def is_saving(self, slot: ResidentSlot, epoch: int) -> bool:
        """Whether what the call `epoch` left is still in the slot, and no other call has it."""
        with self._changed:
            return self._is_saving(slot, epoch)

    def resident(self, context: ContextId) -> ResidentSlot | None:
        """The slot that has a context, whoever uses it."""
        with self._changed:
            return self._find(context)

    def drop(self, context: ContextId) -> None:
        """Free the slot of a context that no call uses."""
        with self._changed:
            slot = self._find(context)
            if slot is not None:
                self._pool.remove(("slot", slot.number))
                self._free(slot)

    def chunk(self, key: ChunkKey) -> EncodedChunk | None:
        """A compressed chunk that is in memory; counts as a use of it."""
        with self._changed:
            self._pool.touch([("chunk", key)])
            return self._chunks.get(key)

    def touch(self, keys: Iterable[ChunkKey]) -> None:
        """Count a use of compressed chunks: of a context that was used where it lay in its slot."""
        with self._changed:
            self._pool.touch(("chunk", key) for key in keys)

    def keeps(self, format_: ChunkFormat) -> bool:
        """Whether to hold a chunk of a format: one that saves no time takes nobody's place."""
        with self._changed:
            has_room = self._pool.used + held_bytes(format_.nbytes) <= self._pool.budget
        return has_room or self._worth.chunk(format_) > 0

    def keep(self, key: ChunkKey, chunk: EncodedChunk) -> bool:
        """Hold a copy of a compressed chunk, if it `keeps` such and locked memory leaves room;
        whether it is held."""
        with self._changed:
            if key in self._chunks:
                return True
            if not self.keeps(chunk.format):
                return False
            nbytes = held_bytes(len(chunk.payload))
            try:
                worth = self._worth.chunk(chunk.format)
                victims = self._pool.add(("chunk", key), nbytes, worth)
            except MemoryBudgetError:
                return False
            self._evict(victims)
            self._chunks[key] = EncodedChunk(chunk.format, in_own_pages(chunk.payload))
            self._note()
            return True

    def forget(self, key: ChunkKey) -> None:
        """Drop a compressed chunk, if it is held."""
        with self._changed:
            if self._chunks.pop(key, None) is not None:
                self._pool.remove(("chunk", key))

    @contextmanager
    def buffer(self, nbytes: int) -> Iterator[bool]:
        """Room for what is read and not yet decoded; False if running calls leave too little."""
        with self._changed:
            self._reads += 1
            key = "read", self._reads
            while not (is_held := self._reserve(key, nbytes)) and self._anything_saving():
                self._changed.wait()
        try:
            yield is_held
        finally:
            if is_held:
                with self._changed:
                    self._pool.remove(key)
                    self._changed.notify_all()

    def _reserve(self, key: _PoolKey, nbytes: int) -> bool:
        self._pool.add(key, 0, 0.0)
        try:
            self._pool.lock(key, nbytes)
        except MemoryBudgetError:
            self._pool.remove(key)
            return False
        self._resize(key, nbytes)
        return True

    def _anything_saving(self) -> bool:
        return "saving" in self._states.values()

    def _acquire(self, context: ContextId, num_tokens: int) -> ResidentSlot:
        claim = self._engine.kv_bytes(num_tokens)
        with self._changed:
            while True:
                try:
                    slot = self._find(context) or self._pick(claim)
                    self._lock(slot, context, num_tokens, claim)
                    return slot
                except (BusyError, MemoryBudgetError):
                    if claim > self._pool.budget or not self._anything_saving():
                        raise
                    self._changed.wait()

    def _lock(self, slot: ResidentSlot, context: ContextId, num_tokens: int, claim: int) -> None:
        key = "slot", slot.number
        mapped = 0
        if slot.context != context and slot.number in self._states:
            mapped = self._take_over(slot, num_tokens, claim)
        if self._states.get(slot.number) == "saving":
            self._pool.unlock(key)
        if key not in self._pool:
            self._pool.add(key, mapped, self._worth.slot)
            slot.context = context
        self._states[slot.number] = "idle"
        self._pool.lock(key, claim)
        self._states[slot.number] = "running"
        slot.epoch += 1
        self._order.pop(slot.number)
        self._order[slot.number] = None

    def _take_over(self, slot: ResidentSlot, num_tokens: int, claim: int) -> int:
        """Evict a slot's context but keep its pages as far as the next one needs them: new ones
        would have to be zeroed. Returns the bytes of those."""
        key = "slot", slot.number
        mapped = min(self._pool.nbytes(key), claim)
        self._pool.remove(key)
        self._engine.release_slot(slot.number, num_tokens)
        del self._states[slot.number]
        slot.clear()
        self._evicted["slot"] += 1
        return mapped

    def _pick(self, claim: int) -> ResidentSlot:
        """A slot without a context, or the idle one not used for longest if it is needed, or if
        a slot would be evicted anyway."""
        free = next((n for n in self._order if n not in self._states), None)
        idle = next((n for n in self._order if self._states.get(n) == "idle"), None)
        is_full = self._pool.used + claim > self._pool.budget
        victim = self._pool.next_victim() if is_full else None
        takes_over = victim is not None and victim[0] == "slot"
        chosen = idle if free is None or (takes_over and idle is not None) else free
        if chosen is None:
            raise BusyError(f"all {len(self._slots)} context slots are in use; try again later")
        return self._slots[chosen]

    def _is_saving(self, slot: ResidentSlot, epoch: int) -> bool:
        return slot.epoch == epoch and self._states.get(slot.number) == "saving"

    def _find(self, context: ContextId) -> ResidentSlot | None:
        return next((s for s in self._slots.values() if s.context == context), None)

    def _shrink(self, slot: ResidentSlot) -> None:
        """Give back what the call did not use of its slot."""
        self._engine.release_slot(slot.number, slot.length)
        key = "slot", slot.number
        self._pool.resize(key, self._engine.kv_bytes(slot.length))
        self._pool.unlock(key)
        self._pool.lock(key, 0)

    def _resize(self, key: _PoolKey, nbytes: int) -> None:
        self._evict(self._pool.resize(key, nbytes))
        self._note()

    def _note(self) -> None:
        self._peak = max(self._peak, self._pool.used)

    def _evict(self, victims: Sequence[_PoolKey]) -> None:
        for kind, name in victims:
            self._evicted[kind] += 1
            if isinstance(name, bytes):
                del self._chunks[name]
            else:
                self._free(self._slots[name])

    def _free(self, slot: ResidentSlot) -> None:
        self._engine.release_slot(slot.number)
        self._states.pop(slot.number, None)
        slot.clear()
