"""Random walks of the journal against plain lists, with crashes and torn logs on the way."""

import random
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from pliant.contexts.journal import JOURNAL_FILE, Journal
from pliant.contexts.pieces import Piece

pieces = st.lists(
    st.builds(
        Piece,
        st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5),
        st.sampled_from([0.3, 1.0]),
        st.sampled_from(["user", "assistant"]),
    ),
    max_size=3,
)


class JournalWalk(RuleBasedStateMachine):
    """`model` is every context's pieces."""

    contexts = Bundle("contexts")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.journal = Journal(self.folder)
        self.model: dict[str, list[Piece]] = {}

    @rule(target=contexts, system=pieces)
    def create(self, system: list[Piece]) -> str:
        context = self.journal.create("app", "model", system=system)
        self.model[context] = list(system)
        return context

    @rule(context=contexts, added=pieces)
    def append(self, context: str, added: list[Piece]) -> None:
        length = self.journal.append(context, added)
        self.model[context] = self.model[context] + added
        assert length == sum(len(piece.tokens) for piece in self.model[context])

    @rule(target=contexts, context=contexts)
    def fork(self, context: str) -> str:
        fork = self.journal.fork(context)
        self.model[fork] = list(self.model[context])
        return fork

    @rule(context=contexts, added=pieces, keep=st.integers(0, 3))
    def rewrite(self, context: str, added: list[Piece], keep: int) -> None:
        kept = self.model[context][:keep]
        self.journal.rewrite(context, sum(len(piece.tokens) for piece in kept), added)
        self.model[context] = kept + added

    @rule(context=consumes(contexts))
    def delete(self, context: str) -> None:
        self.journal.delete(context)
        del self.model[context]

    @rule()
    def crash(self) -> None:
        """The files as another process would find them now."""
        self._move(self._copy())

    @rule(seed=st.integers(0, 2**32 - 1))
    def torn_log(self, seed: int) -> None:
        """A copy whose log ends anywhere is a whole journal, of some time before."""
        folder = self._copy()
        log = folder / f"{JOURNAL_FILE}-wal"
        if log.exists():
            content = log.read_bytes()
            log.write_bytes(content[: random.Random(seed).randrange(len(content) + 1)])
        (folder / f"{JOURNAL_FILE}-shm").unlink(missing_ok=True)
        with Journal(folder) as journal:
            assert journal.check() == []
            for context in journal.ids() & self.model.keys():
                journal.pieces(context)
        shutil.rmtree(folder)

    def _copy(self) -> Path:
        folder = Path(tempfile.mkdtemp())
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return folder

    def _move(self, folder: Path) -> None:
        self.journal.close()
        shutil.rmtree(self.folder)
        self.folder, self.journal = folder, Journal(folder)

    @invariant()
    def all_is_as_it_was_said(self) -> None:
        assert self.journal.ids() == self.model.keys()
        for context, expected in self.model.items():
            assert self.journal.pieces(context) == expected
            info = self.journal.get(context)
            assert info.num_tokens == sum(len(piece.tokens) for piece in expected)

    @invariant()
    def nothing_is_left_over(self) -> None:
        assert self.journal.check() == []

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.folder)


TestJournalWalk = JournalWalk.TestCase
TestJournalWalk.settings = settings(max_examples=8, stateful_step_count=20, deadline=None)
