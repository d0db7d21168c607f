"""One memory budget for all contexts: who holds how many bytes, and who goes first.

Pure bookkeeping: it names victims, their owner drops the memory. Eviction is LCTRU (LLMS, section
on eviction): one queue per compression level, the least compressed first, and within a queue what
was not used for longest. What is little compressed frees most and is quick to have again: an idle
slot is decoded from its compressed chunks, a dense chunk costs no more to recompute than others.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pliant.errors import MemoryBudgetError

Key = TypeVar("Key", bound=Hashable)


@dataclass
class _Entry:
    """`claim` is what a locked entry may grow to; None while it is idle."""

    nbytes: int
    bits: int
    claim: int | None = None


class Pool(Generic[Key]):
    """A ledger of entries within `budget` bytes; not thread-safe.

    A locked entry stays and may grow to its claim. The claims together keep to the budget, so a
    call that was let in never runs out of memory. What needs room returns the keys it evicted:
    they are gone from the ledger, and the caller frees their memory before it uses the new.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self.claimed = 0
        self._entries: dict[Key, _Entry] = {}
        self._queues: dict[int, OrderedDict[Key, None]] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def nbytes(self, key: Key) -> int:
        """Bytes an entry holds; KeyError if it is not there."""
        return self._entries[key].nbytes

    def bits(self, key: Key) -> int:
        """An entry's compression level; KeyError if it is not there."""
        return self._entries[key].bits

    def add(self, key: Key, nbytes: int, bits: int) -> list[Key]:
        """Enter `key`, idle, as the most recently used of its level.

        Raises MemoryBudgetError, and changes nothing, if locked entries leave too little room.
        """
        assert key not in self._entries
        victims = self._make_room(nbytes)
        self._entries[key] = _Entry(nbytes, bits)
        self._queue(bits)[key] = None
        self.used += nbytes
        return victims

    def touch(self, keys: Iterable[Key]) -> None:
        """Mark as just used, in this order; passes over keys that are not there, or locked."""
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None and entry.claim is None:
                self._queue(entry.bits).move_to_end(key)

    def lock(self, key: Key, claim: int) -> None:
        """Keep an idle entry from eviction and promise that it may grow to `claim` bytes.

        Raises MemoryBudgetError, and changes nothing, if other claims leave too little room.
        """
        entry = self._entries[key]
        assert entry.claim is None
        claim = max(claim, entry.nbytes)
        if self.claimed + claim > self.budget:
            raise self._refusal(claim, self.claimed)
        del self._queue(entry.bits)[key]
        entry.claim = claim
        self.claimed += claim

    def unlock(self, key: Key) -> None:
        """Give up the claim; the entry becomes the most recently used of its level."""
        entry = self._entries[key]
        assert entry.claim is not None
        self.claimed -= entry.claim
        entry.claim = None
        self._queue(entry.bits)[key] = None

    def is_locked(self, key: Key) -> bool:
        return self._entries[key].claim is not None

    def resize(self, key: Key, nbytes: int) -> list[Key]:
        """Change what a locked entry holds, within its claim; this never fails."""
        entry = self._entries[key]
        assert entry.claim is not None and 0 <= nbytes <= entry.claim
        victims = self._make_room(nbytes - entry.nbytes)
        self.used += nbytes - entry.nbytes
        entry.nbytes = nbytes
        return victims

    def remove(self, key: Key) -> None:
        """Forget an entry, locked or not; KeyError if it is not there."""
        entry = self._entries.pop(key)
        if entry.claim is None:
            del self._queue(entry.bits)[key]
        else:
            self.claimed -= entry.claim
        self.used -= entry.nbytes

    def check(self) -> None:
        """Add everything up again; raises AssertionError with the numbers if the ledger is off."""
        used = sum(entry.nbytes for entry in self._entries.values())
        claimed = sum(entry.claim or 0 for entry in self._entries.values())
        numbers = f"{used} used, {self.used} noted, {claimed} claimed, {self.claimed} noted"
        assert (used, claimed) == (self.used, self.claimed), numbers
        assert max(used, claimed) <= self.budget, f"{numbers}, budget {self.budget}"

    def _queue(self, bits: int) -> OrderedDict[Key, None]:
        return self._queues.setdefault(bits, OrderedDict())

    def _make_room(self, nbytes: int) -> list[Key]:
        missing = self.used + nbytes - self.budget
        victims: list[Key] = []
        for bits in sorted(self._queues, reverse=True):
            for key in self._queues[bits]:
                if missing <= 0:
                    break
                missing -= self._entries[key].nbytes
                victims.append(key)
        if missing > 0:
            raise self._refusal(nbytes, self.budget - nbytes + missing)
        for key in victims:
            self.remove(key)
        return victims

    def _refusal(self, nbytes: int, held: int) -> MemoryBudgetError:
        return MemoryBudgetError(
            f"{nbytes} bytes do not fit the context memory of {self.budget} bytes, of which "
            f"running calls hold {held}; raise the budget (--context-memory), or begin anew",
            needed_bytes=nbytes,
            budget_bytes=self.budget,
        )
