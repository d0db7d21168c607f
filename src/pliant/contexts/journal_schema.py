"""The journal's tables, as the steps that lead to them.

A branch is a run of pieces that continues another branch at its `inherited` tokens, or begins
at nothing. Each context has one; forks share what they inherit. Branches end with the last
context that needs them.
"""

APPLICATION_ID = 0x706C6A31  # "plj1"

MIGRATIONS = (
    """
    CREATE TABLE branches (
        id INTEGER PRIMARY KEY,
        parent INTEGER REFERENCES branches (id),
        inherited INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX branches_by_parent ON branches (parent);
    CREATE TABLE contexts (
        id TEXT PRIMARY KEY,
        app TEXT NOT NULL,
        title TEXT,
        model TEXT NOT NULL,
        branch INTEGER NOT NULL UNIQUE REFERENCES branches (id),
        parent TEXT,
        num_tokens INTEGER NOT NULL,
        num_system_tokens INTEGER NOT NULL,
        created_s REAL NOT NULL,
        used_s REAL NOT NULL
    ) STRICT;
    CREATE INDEX contexts_by_app ON contexts (app, used_s);
    CREATE INDEX contexts_by_use ON contexts (used_s);
    CREATE TABLE pieces (
        branch INTEGER NOT NULL REFERENCES branches (id),
        start INTEGER NOT NULL,
        num_tokens INTEGER NOT NULL,
        role TEXT NOT NULL,
        messages TEXT NOT NULL,
        tokens BLOB NOT NULL,
        levels BLOB NOT NULL,
        checksum INTEGER NOT NULL,
        UNIQUE (branch, start)
    ) STRICT;
    """,
)
