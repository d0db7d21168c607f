"""Branches of histories in the journal's tables; callers hold the transaction.

Forks begin at the end of a piece, so no piece is ever cut.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import astuple

from pliant.contexts.pieces import Encoded, Piece, decode, encode
from pliant.errors import JournalError, RequestError

# From a branch up to its oldest ancestor, with where the next younger one leaves each of them.
_ANCESTRY = """
    WITH RECURSIVE line (id, parent, inherited, stop) AS (
        SELECT id, parent, inherited, ?2 FROM branches WHERE id = ?1
        UNION ALL
        SELECT b.id, b.parent, b.inherited, line.inherited
        FROM branches b JOIN line ON b.id = line.parent
    )
    SELECT p.start, p.num_tokens, p.role, p.messages, p.tokens, p.levels, p.checksum
    FROM line JOIN pieces p ON p.branch = line.id AND p.start < line.stop
    ORDER BY p.start
"""


def create(db: sqlite3.Connection, parent: int | None = None, inherited: int = 0) -> int:
    """A new branch that goes on after the first `inherited` tokens of `parent`."""
    sql = "INSERT INTO branches (parent, inherited) VALUES (?, ?)"
    row = db.execute(sql, (parent, inherited)).lastrowid
    assert row is not None
    return row


def append(db: sqlite3.Connection, branch: int, start: int, pieces: Sequence[Piece]) -> int:
    """Add `pieces` to a branch of `start` tokens; its new length."""
    for piece in pieces:
        row = encode(piece)
        db.execute(
            "INSERT INTO pieces"
            " (branch, start, num_tokens, role, messages, tokens, levels, checksum)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (branch, start, len(piece.tokens), *astuple(row)),
        )
        start += len(piece.tokens)
    return start


def read(db: sqlite3.Connection, branch: int, length: int) -> list[Piece]:
    """All pieces of a branch of `length` tokens, inherited ones first.

    Raises JournalError if a checksum is wrong or pieces are missing.
    """
    pieces, end = [], 0
    for start, num_tokens, *columns in db.execute(_ANCESTRY, (branch, length)):
        if start != end:
            break
        try:
            piece = decode(Encoded(*columns))
        except JournalError as error:
            raise JournalError(f"the piece at token {start} is damaged: {error}") from error
        if len(piece.tokens) != num_tokens:
            raise JournalError(f"the piece at token {start} has another length than it should")
        pieces.append(piece)
        end += num_tokens
    if end != length:
        raise JournalError(f"{length} tokens were written, but they end after {end}")
    return pieces


def read_before(db: sqlite3.Connection, branch: int, length: int, stop: int) -> list[Piece]:
    """The pieces before token `stop`, which is where one ends; raises RequestError if not."""
    kept, end = [], 0
    for piece in read(db, branch, length):
        if end >= stop:
            break
        kept.append(piece)
        end += len(piece.tokens)
    if end != stop:
        raise RequestError(f"token {stop} of {length} is not where a piece of the history begins")
    return kept


def release(db: sqlite3.Connection, branch: int | None) -> None:
    """Delete a branch that no context has, then its ancestors, as far as nothing needs them."""
    while branch is not None and not _is_needed(db, branch):
        (parent,) = db.execute("SELECT parent FROM branches WHERE id = ?", (branch,)).fetchone()
        db.execute("DELETE FROM pieces WHERE branch = ?", (branch,))
        db.execute("DELETE FROM branches WHERE id = ?", (branch,))
        branch = parent


def check(db: sqlite3.Connection) -> list[str]:
    """Broken references, and branches that nothing needs."""
    problems = [
        f"{row[0]} refers to a missing row" for row in db.execute("PRAGMA foreign_key_check")
    ]
    for (branch,) in db.execute("SELECT id FROM branches").fetchall():
        if not _is_needed(db, branch):
            problems.append(f"branch {branch} belongs to no context")
    return problems


def _is_needed(db: sqlite3.Connection, branch: int) -> bool:
    sql = (
        "SELECT EXISTS (SELECT 1 FROM contexts WHERE branch = ?1)"
        " OR EXISTS (SELECT 1 FROM branches WHERE parent = ?1)"
    )
    return bool(db.execute(sql, (branch,)).fetchone()[0])
