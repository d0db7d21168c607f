"""What keeping contexts costs: journal, chunks on the disk, and how both grow with their number.

The chunks are those of a model in the shape of Llama-3.2-1B: 16 layers, 8 KV heads of 64, so 256
sections, at 4 bits. Everything lies in a temporary folder, on the disk of this one unless
--folder names another.
"""

from __future__ import annotations

import hashlib
import random
import secrets
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pliant
from _report import Report, parser
from pliant.contexts.chunks import StoredChunk
from pliant.contexts.contexts import Contexts
from pliant.contexts.identity import CHUNK_TOKENS
from pliant.contexts.journal import Journal
from pliant.contexts.measure_storage import measure_storage
from pliant.contexts.options import ContextOptions
from pliant.contexts.pieces import Piece
from pliant.contexts.storage import EmulatedDisk, parse_storage
from pliant.contexts.store import KV_FOLDER, Store
from pliant.engine.options import EngineOptions

SECTIONS = 16 * 2 * 8
BITS = 4
CHUNK_BYTES = SECTIONS * CHUNK_TOKENS * 64 * BITS // 8
SMALL_BYTES = 4096  # of the chunks that only count
CALL_TOKENS = 200
MEMORY_TOKENS = 450
MOST_START_S = 1.0
MOST_GROWTH = 1.5
DEVICES = {"UFS 3.1": "1.5GB/s,100us", "eMMC": "200MB/s,200us", "SD card": "40MB/s,1ms"}


class Bench:
    """One method per subject; `folder` is empty and on the disk to measure."""

    def __init__(self, report: Report, folder: Path, repeats: int) -> None:
        self.report = report
        self.folder = folder
        self.repeats = repeats
        self._source = random.Random(report.seed)

    def journal(self) -> None:
        """A durable append, and reading a history."""
        with Journal(self.folder / "journal") as journal:
            context = journal.create("app", "model")
            call = [Piece(range(CALL_TOKENS // 2), 1.0), Piece(range(CALL_TOKENS // 2), 0.5)]
            append_ms = self._median_ms(lambda: journal.append(context, call))
            fork_ms = self._median_ms(lambda: journal.fork(context))
            read_ms = self._median_ms(lambda: journal.history(context))
            tokens = journal.get(context).num_tokens
        self.report.row(case="journal: append a call", ms=append_ms)
        self.report.row(case="journal: fork", ms=fork_ms, tokens=tokens)
        self.report.row(case="journal: read a history", ms=read_ms, tokens=tokens)

    def checksums(self) -> None:
        """What guards a chunk, at a chunk's size: CRC-32 is what packs have."""
        data = self._source.randbytes(CHUNK_BYTES)
        for name, function in {
            "CRC-32": zlib.crc32,
            "SHA-256": lambda data: hashlib.sha256(data).digest(),
            "BLAKE2b": lambda data: hashlib.blake2b(data).digest(),
        }.items():
            ms = self._median_ms(lambda f=function: f(data))
            self.report.row(case=name, ms=ms, mib_per_s=CHUNK_BYTES / 2**20 / ms * 1000)

    def chunks(self, count: int) -> None:
        """Writing and reading whole chunks, one layer of them, and from slower devices."""
        keys = [secrets.token_bytes(32) for _ in range(count)]
        sections = (CHUNK_BYTES // SECTIONS,) * SECTIONS
        chunk = StoredChunk(self._source.randbytes(CHUNK_BYTES), sections, BITS, 1.0)
        context, mib = secrets.token_hex(16), count * CHUNK_BYTES / 2**20
        profile = measure_storage(self.folder)
        self.report.row(
            case="disk, cold", mib_per_s=profile.bandwidth / 2**20, ms=1000 * profile.latency_s
        )
        folder = self.folder / "chunks"
        with Store(folder) as store:
            start = time.perf_counter()
            for key in keys:
                store.put(context, key, chunk)
            seconds = time.perf_counter() - start
            self.report.row(case="store: put", ms=1000 * seconds / count, mib_per_s=mib / seconds)
            for case, wanted in (("a context", None), ("a layer of it", range(16))):
                ms = self._median_ms(lambda w=wanted: store.read_many([(k, w) for k in keys]))
                share = 1.0 if wanted is None else 16 / SECTIONS
                self.report.row(
                    case=f"store: read {case}, cached", ms=ms, mib_per_s=share * mib / ms * 1000
                )
        for name, text in DEVICES.items():
            with Store(folder, device=EmulatedDisk(parse_storage(text))) as store:
                start = time.perf_counter()
                store.read_many([(key, None) for key in keys])
                seconds = time.perf_counter() - start
            line = parse_storage(text).read_s(count * CHUNK_BYTES)
            self.report.row(
                case=f"store: read a context, {name}",
                ms=1000 * seconds,
                mib_per_s=mib / seconds,
                against_the_device=seconds / line,
            )

    def growth(self, few: int, many: int) -> None:
        """Start-up and lookups with few and with many contexts."""
        read_ms = {}
        for count in (few, many):
            folder = self.folder / f"{count} contexts"
            context, key = fill(folder, count)
            start = time.perf_counter()
            with Journal(folder) as journal, Store(folder) as store:
                start_s = time.perf_counter() - start
                read_ms[count] = self._median_ms(
                    lambda j=journal, s=store, c=context, k=key: (j.history(c), s.read(k))
                )
            self.report.row(case=f"start with {count} contexts", ms=1000 * start_s)
            for path in (folder / KV_FOLDER).glob("index.sqlite*"):
                path.unlink()
            start = time.perf_counter()
            Store(folder).close()
            rebuild_ms = 1000 * (time.perf_counter() - start)
            self.report.row(case=f"index of {count} contexts from their packs", ms=rebuild_ms)
            self.report.row(case=f"history and chunk of one of {count}", ms=read_ms[count])
        self.report.at_most(
            f"seconds to open journal and store of {many} contexts", MOST_START_S, start_s
        )
        name = f"time to find a context among {many} against {few}"
        self.report.at_most(name, MOST_GROWTH, read_ms[many] / read_ms[few])

    def switching(self, few: int, many: int) -> None:
        """Opening `Contexts` with a model, calls that restore from the disk, and a list of all."""
        ms = {}
        with pliant.load("pocket", EngineOptions(threads=2)) as model:
            for count in (few, many):
                root = self.folder / f"{count} of pocket"
                fill(root, count, model.bundle.sha256)
                options = ContextOptions(memory_bytes=model.engine.kv_bytes(MEMORY_TOKENS))
                start = time.perf_counter()
                with Contexts(model, root, options) as contexts:
                    open_s = time.perf_counter() - start
                    ms[count] = self._switch_ms(contexts)
                with Journal(root, read_only=True) as journal:
                    list_ms = self._median_ms(lambda j=journal: j.contexts())
                self.report.row(case=f"open with {count} contexts and a model", ms=1000 * open_s)
                self.report.row(case=f"switch among {count} contexts", ms=ms[count])
                self.report.row(case=f"list {count} contexts", ms=list_ms)
        self.report.at_most(f"seconds to open {many} contexts", MOST_START_S, open_s)
        name = f"time to switch among {many} contexts against {few}"
        self.report.at_most(name, MOST_GROWTH, ms[many] / ms[few])

    def _switch_ms(self, contexts: Contexts) -> float:
        """Median of short calls of two contexts in turn, of which memory holds one."""
        opened = [contexts.create("app") for _ in range(2)]
        for context in opened:
            context.call(list(range(6, 206)), max_tokens=2)
        times = []
        for number in range(self.repeats):
            contexts.flush()
            start = time.perf_counter()
            opened[number % 2].call([6, 7, 8], max_tokens=2)
            times.append(1000 * (time.perf_counter() - start))
        return statistics.median(times)

    def _median_ms(self, work: Callable[[], object]) -> float:
        times = []
        for _ in range(self.repeats):
            start = time.perf_counter()
            work()
            times.append(1000 * (time.perf_counter() - start))
        return statistics.median(times)


def fill(folder: Path, count: int, model: str = "model") -> tuple[str, bytes]:
    """So many contexts with a chunk each; one of them, and its key."""
    chunk = StoredChunk(bytes(SMALL_BYTES), (SMALL_BYTES // 4,) * 4, BITS, 1.0)
    key = b""
    with Journal(folder) as journal, Store(folder) as store:
        journal._db.execute("PRAGMA synchronous=OFF")  # Syncing is what takes time, not counting.
        for _ in range(count):
            context = journal.create("app", model, system=[Piece(range(CALL_TOKENS), 1.0)])
            key = secrets.token_bytes(32)
            store.put(context, key, chunk)
    return context, key


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--folder", type=Path, default=Path(__file__).parent)
    arguments = options.parse_args()
    quick = arguments.quick
    report = Report("context_store", seed=arguments.seed, quick=quick)
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix=".contexts-") as name:
        bench = Bench(report, Path(name), repeats=9 if quick else 31)
        bench.journal()
        bench.checksums()
        bench.chunks(8 if quick else 64)
        bench.growth(100, 2000 if quick else 10_000)
        bench.switching(100, 2000 if quick else 10_000)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
