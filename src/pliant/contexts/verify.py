"""Reads a whole folder of contexts, and says what is wrong with it."""

from dataclasses import dataclass

from pliant.contexts.audit import StoreReport
from pliant.contexts.journal import Journal
from pliant.contexts.store import Store
from pliant.errors import JournalError


@dataclass(frozen=True)
class VerifyReport:
    """`problems` are sentences, those of the journal first; none if all is well."""

    num_contexts: int
    num_tokens: int
    store: StoreReport
    problems: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        return not self.problems


def verify(journal: Journal, store: Store) -> VerifyReport:
    """Read every token and every chunk. Changes nothing.

    A damaged chunk costs the time to compute it again, a damaged journal is data lost.
    """
    problems = journal.check()
    report = store.verify()
    try:
        contexts = journal.contexts()
    except JournalError:
        contexts = []
    num_tokens = sum(context.num_tokens for context in contexts)
    return VerifyReport(len(contexts), num_tokens, report, (*problems, *report.problems))
