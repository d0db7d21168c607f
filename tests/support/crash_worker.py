"""Writes contexts and KV until it is killed; says what was acknowledged, a JSON line for each.

python crash_worker.py FOLDER SEED
"""

import json
import os
import random
import sys
import threading
from pathlib import Path
from typing import Any

from pliant.contexts.journal import Journal
from pliant.contexts.lock import FolderLock
from pliant.contexts.pieces import Piece
from pliant.contexts.store import Store
from support.stored_chunks import make_chunk, make_key

QUOTA_BYTES = 3_000_000
SECTIONS = (20_000, 3, 30_000)


def say(**fields: Any) -> None:
    os.write(1, (json.dumps(fields) + "\n").encode())


def write_journal(journal: Journal, source: random.Random) -> None:
    mine: list[str] = []
    while True:
        choice = source.random()
        if len(mine) < 2 or choice < 0.1:
            mine.append(journal.create("app", "model"))
            say(op="create", context=mine[-1])
        elif choice < 0.2:
            parent = source.choice(mine)
            mine.append(journal.fork(parent))
            say(op="fork", context=mine[-1], parent=parent)
        elif choice < 0.25:
            context = mine.pop(source.randrange(len(mine)))
            say(op="deleting", context=context)
            journal.delete(context)
            say(op="delete", context=context)
        else:
            context = source.choice(mine)
            tokens = [source.randrange(1 << 32) for _ in range(source.randint(1, 200))]
            journal.append(context, [Piece(tokens, source.choice([0.3, 1.0]))])
            say(op="append", context=context, tokens=tokens)


def write_kv(store: Store, source: random.Random) -> None:
    contexts = [source.randbytes(16).hex() for _ in range(5)]
    while True:
        context, number = source.choice(contexts), source.randrange(1000)
        choice = source.random()
        if choice < 0.85:
            chunk = make_chunk(number, source.choice([2, 4, 8]), SECTIONS)
            if store.put(context, make_key(number), chunk):
                say(op="put", number=number)
        elif choice < 0.92:
            store.release(context, [make_key(number) for number in range(1000)])
        else:
            store.drop_context(context)


def main() -> None:
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    lock, journal = FolderLock(folder), Journal(folder)
    store = Store(folder, quota_bytes=QUOTA_BYTES)
    threading.Thread(target=write_kv, args=(store, random.Random(seed + 1)), daemon=True).start()
    write_journal(journal, random.Random(seed))
    lock.close()


if __name__ == "__main__":
    main()
