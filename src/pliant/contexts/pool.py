"""One memory budget for all contexts: who holds how many bytes, and who goes first.

Pure bookkeeping: it names victims, their owner drops the memory. LLMS (arXiv 2403.11805, section
on eviction) evicts by LCTRU: a queue per compression level, the least compressed first, within a
queue what was not used for longest. That is right where storage is slow: an idle slot is decoded
from its compressed chunks in a moment, chunks take long to read. Where reading is quicker than
decoding it is wrong. So the queues are ordered by what a byte in them is worth, the time that
having it saves, and an entry that is not used loses its worth as others are evicted (GreedyDual-
Size: Cao and Irani, USITS 1997).
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from heapq import merge
from operator import itemgetter
from typing import Generic, TypeVar

from pliant.errors import MemoryBudgetError

Key = TypeVar("Key", bound=Hashable)


@dataclass
class _Entry:
    """`claim` is what a locked entry may grow to; None while it is idle."""

    nbytes: int
    worth: float
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
        # By worth: the keys, and the age of the pool when each was last used.
        self._queues: dict[float, OrderedDict[Key, float]] = {}
        self._age = 0.0

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def nbytes(self, key: Key) -> int:
        """Bytes an entry holds; KeyError if it is not there."""
        return self._entries[key].nbytes

    def add(self, key: Key, nbytes: int, worth: float) -> list[Key]:
        """Enter `key`, idle, as just used. `worth` is what a byte of it saves, in any unit.

        Raises MemoryBudgetError, and changes nothing, if locked entries leave too little room.
        """
        assert key not in self._entries
        victims = self._make_room(nbytes)
        self._entries[key] = _Entry(nbytes, worth)
        self._queue(worth)[key] = self._age
        self.used += nbytes
        return victims

    def touch(self, keys: Iterable[Key]) -> None:
        """Mark as just used, in this order; passes over keys that are not there, or locked."""
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None and entry.claim is None:
                queue = self._queue(entry.worth)
                queue[key] = self._age
                queue.move_to_end(key)

    def lock(self, key: Key, claim: int) -> None:
        """Keep an idle entry from eviction and promise that it may grow to `claim` bytes.

        Raises MemoryBudgetError, and changes nothing, if other claims leave too little room.
        """
        entry = self._entries[key]
        assert entry.claim is None
        claim = max(claim, entry.nbytes)
        if self.claimed + claim > self.budget:
            raise self._refusal(claim, self.claimed)
        del self._queue(entry.worth)[key]
        entry.claim = claim
        self.claimed += claim

    def unlock(self, key: Key) -> None:
        """Give up the claim; the entry counts as just used."""
        entry = self._entries[key]
        assert entry.claim is not None
        self.claimed -= entry.claim
        entry.claim = None
        self._queue(entry.worth)[key] = self._age

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
            del self._queue(entry.worth)[key]
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

    def next_victim(self) -> Key | None:
        """What would be evicted first."""
        return next((key for _, key in self._by_credit()), None)

    def _queue(self, worth: float) -> OrderedDict[Key, float]:
        return self._queues.setdefault(worth, OrderedDict())

    def _by_credit(self) -> Iterator[tuple[float, Key]]:
        """Idle entries, the one to be evicted first first, with the age at which they are."""
        queues = (_credits(worth, queue) for worth, queue in sorted(self._queues.items()))
        return merge(*queues, key=itemgetter(0))

    def _make_room(self, nbytes: int) -> list[Key]:
        missing = self.used + nbytes - self.budget
        victims: list[Key] = []
        age = self._age
        for credit, key in self._by_credit() if missing > 0 else ():
            if missing <= 0:
                break
            missing -= self._entries[key].nbytes
            victims.append(key)
            age = credit
        if missing > 0:
            raise self._refusal(nbytes, self.budget - nbytes + missing)
        self._age = age
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


def _credits(worth: float, queue: OrderedDict[Key, float]) -> Iterator[tuple[float, Key]]:
    return ((age + worth, key) for key, age in queue.items())
