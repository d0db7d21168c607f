"""The ledger against a slow plain model of it, over random sequences of calls."""

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pliant.contexts.pool import Pool
from pliant.errors import MemoryBudgetError

BUDGET = 100
SIZES = st.integers(0, 60)


@dataclass
class Row:
    key: int
    nbytes: int
    bits: int
    used_at: int
    claim: int | None = None


class PlainPool:
    """A list of rows; every question is answered by going through all of it."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.time = 0

    def now(self) -> int:
        self.time += 1
        return self.time

    def row(self, key: int) -> Row:
        return next(row for row in self.rows if row.key == key)

    def used(self) -> int:
        return sum(row.nbytes for row in self.rows)

    def evict_for(self, nbytes: int) -> list[int] | None:
        """Keys in order, or None if it cannot be done."""
        victims: list[int] = []
        idle = sorted((r for r in self.rows if r.claim is None), key=lambda r: (-r.bits, r.used_at))
        while self.used() - sum(self.row(k).nbytes for k in victims) + nbytes > BUDGET:
            if not idle:
                return None
            victims.append(idle.pop(0).key)
        self.rows = [row for row in self.rows if row.key not in victims]
        return victims


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool: Pool[int] = Pool(BUDGET)
        self.plain = PlainPool()
        self.next_key = 0

    def keys(self, locked: bool) -> list[int]:
        return [row.key for row in self.plain.rows if (row.claim is not None) == locked]

    @rule(nbytes=st.integers(0, 130), bits=st.sampled_from([16, 8, 4, 2]))
    def add(self, nbytes: int, bits: int) -> None:
        self.next_key += 1
        expected = self.plain.evict_for(nbytes)
        if expected is None:
            with pytest.raises(MemoryBudgetError) as caught:
                self.pool.add(self.next_key, nbytes, bits)
            assert caught.value.needed_bytes == nbytes and caught.value.budget_bytes == BUDGET
            return
        assert self.pool.add(self.next_key, nbytes, bits) == expected
        self.plain.rows.append(Row(self.next_key, nbytes, bits, self.plain.now()))

    @precondition(lambda self: self.keys(locked=False))
    @rule(data=st.data(), claim=SIZES)
    def lock(self, data: st.DataObject, claim: int) -> None:
        row = self.plain.row(data.draw(st.sampled_from(self.keys(locked=False))))
        claim = max(claim, row.nbytes)
        if sum(r.claim or 0 for r in self.plain.rows) + claim > BUDGET:
            with pytest.raises(MemoryBudgetError):
                self.pool.lock(row.key, claim)
            return
        self.pool.lock(row.key, claim)
        row.claim = claim

    @precondition(lambda self: self.keys(locked=True))
    @rule(data=st.data())
    def unlock(self, data: st.DataObject) -> None:
        row = self.plain.row(data.draw(st.sampled_from(self.keys(locked=True))))
        self.pool.unlock(row.key)
        row.claim, row.used_at = None, self.plain.now()

    @precondition(lambda self: self.keys(locked=True))
    @rule(data=st.data(), share=st.floats(0, 1))
    def resize(self, data: st.DataObject, share: float) -> None:
        row = self.plain.row(data.draw(st.sampled_from(self.keys(locked=True))))
        assert row.claim is not None
        nbytes = int(share * row.claim)
        expected = self.plain.evict_for(nbytes - row.nbytes)
        assert self.pool.resize(row.key, nbytes) == expected
        row.nbytes = nbytes

    @precondition(lambda self: self.plain.rows)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(self.plain.rows))
        self.pool.remove(row.key)
        self.plain.rows.remove(row)

    @rule(keys=st.lists(st.integers(0, 30), unique=True))
    def touch(self, keys: list[int]) -> None:
        self.pool.touch(keys)
        for key in keys:
            for row in self.plain.rows:
                if row.key == key and row.claim is None:
                    row.used_at = self.plain.now()

    @invariant()
    def same_as_plain(self) -> None:
        self.pool.check()
        assert self.pool.used == self.plain.used() <= BUDGET
        assert len(self.pool) == len(self.plain.rows)
        for row in self.plain.rows:
            assert row.key in self.pool
            assert self.pool.nbytes(row.key) == row.nbytes
            assert self.pool.bits(row.key) == row.bits
            assert self.pool.is_locked(row.key) == (row.claim is not None)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_the_least_compressed_go_first_then_the_least_recently_used() -> None:
    pool: Pool[str] = Pool(10)
    for key, bits in (("a4", 4), ("b8", 8), ("c8", 8), ("d2", 2), ("slot", 16)):
        pool.add(key, 2, bits)
    pool.touch(["b8"])
    assert pool.add("e", 7, 4) == ["slot", "c8", "b8", "a4"]


def test_a_promised_claim_is_not_promised_again() -> None:
    pool: Pool[str] = Pool(10)
    pool.add("one", 2, 16)
    pool.add("two", 2, 16)
    pool.lock("one", 7)
    with pytest.raises(MemoryBudgetError, match="--context-memory"):
        pool.lock("two", 4)
    pool.lock("two", 3)
    assert pool.resize("one", 7) == []
    assert pool.resize("two", 3) == []
    pool.check()
