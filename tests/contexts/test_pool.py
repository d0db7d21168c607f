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
    worth: float
    used_at: int
    age: float
    claim: int | None = None


class PlainPool:
    """A list of rows; every question is answered by going through all of it."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.time = 0
        self.age = 0.0

    def row(self, key: int) -> Row:
        return next(row for row in self.rows if row.key == key)

    def used(self) -> int:
        return sum(row.nbytes for row in self.rows)

    def evict_for(self, nbytes: int) -> list[int] | None:
        """Keys in order, or None if it cannot be done."""
        victims: list[int] = []
        age = self.age
        idle = sorted(
            (r for r in self.rows if r.claim is None),
            key=lambda r: (r.age + r.worth, r.worth, r.used_at),
        )
        while self.used() - sum(self.row(k).nbytes for k in victims) + nbytes > BUDGET:
            if not idle:
                return None
            victims.append(idle[0].key)
            age = idle[0].age + idle.pop(0).worth
        self.rows = [row for row in self.rows if row.key not in victims]
        self.age = age
        return victims

    def use(self, row: Row) -> None:
        self.time += 1
        row.used_at, row.age = self.time, self.age


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool: Pool[int] = Pool(BUDGET)
        self.plain = PlainPool()
        self.next_key = 0

    def keys(self, locked: bool) -> list[int]:
        return [row.key for row in self.plain.rows if (row.claim is not None) == locked]

    @rule(nbytes=st.integers(0, 130), worth=st.sampled_from([0.0, 0.5, 2.0, 16.0]))
    def add(self, nbytes: int, worth: float) -> None:
        self.next_key += 1
        expected = self.plain.evict_for(nbytes)
        if expected is None:
            with pytest.raises(MemoryBudgetError) as caught:
                self.pool.add(self.next_key, nbytes, worth)
            assert caught.value.needed_bytes == nbytes and caught.value.budget_bytes == BUDGET
            return
        assert self.pool.add(self.next_key, nbytes, worth) == expected
        self.plain.rows.append(Row(self.next_key, nbytes, worth, 0, 0.0))
        self.plain.use(self.plain.rows[-1])

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
        row.claim = None
        self.plain.use(row)

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
                    self.plain.use(row)

    @invariant()
    def same_as_plain(self) -> None:
        self.pool.check()
        assert self.pool.used == self.plain.used() <= BUDGET
        assert len(self.pool) == len(self.plain.rows)
        for row in self.plain.rows:
            assert row.key in self.pool
            assert self.pool.nbytes(row.key) == row.nbytes
            assert self.pool.is_locked(row.key) == (row.claim is not None)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_the_least_worth_go_first_then_the_least_recently_used() -> None:
    pool: Pool[str] = Pool(10)
    for key, worth in (("a4", 4.0), ("b2", 2.0), ("c2", 2.0), ("d8", 8.0), ("slot", 1.0)):
        pool.add(key, 2, worth)
    pool.touch(["b2"])
    assert pool.next_victim() == "slot"
    assert pool.add("e", 7, 4.0) == ["slot", "c2", "b2", "a4"]


def test_what_is_not_used_loses_its_worth() -> None:
    """Of entries of much and of little worth, the former go when the latter came often enough."""
    pool: Pool[str] = Pool(4)
    pool.add("dear", 2, 3.0)
    evicted = [pool.add(str(number), 2, 1.0) for number in range(6)]
    assert evicted == [[], ["0"], ["1"], ["2"], ["dear"], ["3"]]


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
