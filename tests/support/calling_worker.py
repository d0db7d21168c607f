"""A process that calls contexts until it is killed: `python -m support.calling_worker BUNDLE ROOT`.

Prints a line per acknowledged call: the context, its length, and a checksum of its tokens.
"""

import random
import sys
import zlib
from pathlib import Path

from pliant.bundle import open_bundle
from pliant.contexts.contexts import Contexts
from pliant.contexts.options import ContextOptions
from pliant.contexts.storage import StorageProfile
from pliant.engine.model import ElasticModel
from pliant.engine.options import EngineOptions

NUM_CONTEXTS = 4
STORAGE = StorageProfile(1e10, 0.0)


def checksum(tokens: tuple[int, ...]) -> int:
    return zlib.crc32(repr(tokens).encode())


def main(bundle: Path, root: Path) -> None:
    choice = random.Random()
    options = ContextOptions(memory_bytes=2 << 20, storage=STORAGE)
    with (
        ElasticModel(open_bundle(bundle), EngineOptions(threads=1, slots=3)) as model,
        Contexts(model, root, options) as contexts,
    ):
        while len(contexts.list("app")) < NUM_CONTEXTS:
            contexts.create("app")
        opened = [contexts.open("app", info.id) for info in contexts.list("app")]
        while True:
            context = choice.choice(opened)
            if context.stat().num_tokens > 800:
                context.delete()
                opened.remove(context)
                opened.append(contexts.create("app"))
                continue
            new = [choice.randrange(6, 300) for _ in range(choice.randrange(1, 60))]
            context.call(new, level=choice.choice([0.3, 0.5, 1.0]), max_tokens=3)
            tokens = contexts._shared.journal.history(context.id).tokens
            print(context.id, len(tokens), checksum(tokens), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
