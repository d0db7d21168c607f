"""What reading from storage costs: profiles, and devices that keep to them.

A `Device` is how packs are read. `Disk` is the machine's own; `EmulatedDisk` reads the same
bytes no faster than a slower device would, for experiments.
"""

import os
import re
import threading
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pliant.contexts.pages import new_pages
from pliant.errors import RequestError

_BANDWIDTH = re.compile(r"(\d+(?:\.\d+)?)\s*(k|M|G|Ki|Mi|Gi)?B/s")
_LATENCY = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|µs|ms|s)")
_SIZES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_MAX_LATENCY_S = 10.0
# What is read goes back to the system with its last reference, if it is so much.
_LARGE_BYTES = 64 << 10


@dataclass(frozen=True)
class StorageProfile:
    """A device as a line: `latency_s` per read, then `bandwidth` bytes per second."""

    bandwidth: float
    latency_s: float

    def read_s(self, nbytes: int, num_reads: int = 1) -> float:
        """Seconds that `num_reads` reads of `nbytes` altogether take, one after the other."""
        return num_reads * self.latency_s + nbytes / self.bandwidth


def parse_storage(text: str) -> StorageProfile:
    """Bandwidth and latency as in `200MB/s,100us`; raises RequestError for anything else."""
    bandwidth_text, _, latency_text = (part.strip() for part in text.partition(","))
    bandwidth = _BANDWIDTH.fullmatch(bandwidth_text)
    latency = _LATENCY.fullmatch(latency_text)
    if bandwidth is None or latency is None:
        raise RequestError(
            f"storage {text!r} is not understood; write bandwidth and latency as in 200MB/s,100us"
        )
    profile = StorageProfile(
        float(bandwidth[1]) * _SIZES[bandwidth[2] or ""], float(latency[1]) * _SECONDS[latency[2]]
    )
    if not profile.bandwidth >= 1 or not profile.latency_s <= _MAX_LATENCY_S:
        raise RequestError(
            f"storage {text!r}: at least 1 B/s, and a latency of at most {_MAX_LATENCY_S:g} s"
        )
    return profile


class Device(Protocol):
    def read(self, file: int, offset: int, nbytes: int) -> memoryview:
        """Up to `nbytes` (fewer at the file's end) of an open file. Raises OSError.

        May be called from several threads at once.
        """


class Disk:
    """The machine's own storage, as fast as it is."""

    def read(self, file: int, offset: int, nbytes: int) -> memoryview:
        # A bytearray would be zeroed first.
        is_large = nbytes >= _LARGE_BYTES
        buffer = new_pages(nbytes) if is_large else np.empty(nbytes, np.uint8).data
        done = 0
        while done < nbytes:
            count = os.preadv(file, [buffer[done:]], offset + done)
            if count == 0:
                break
            done += count
        return buffer[:done].toreadonly()


class EmulatedDisk:
    """Reads take at least as long as `profile` says; a disk that is slower itself stays slower.

    Transfers share the bandwidth, latencies of reads at the same time overlap, as on a device
    with a queue.
    """

    def __init__(self, profile: StorageProfile) -> None:
        self.profile = profile
        self._disk = Disk()
        self._lock = threading.Lock()
        self._free_at = 0.0

    def read(self, file: int, offset: int, nbytes: int) -> memoryview:
        asked = time.monotonic()
        data = self._disk.read(file, offset, nbytes)
        with self._lock:
            begin = max(asked + self.profile.latency_s, self._free_at)
            self._free_at = begin + len(data) / self.profile.bandwidth
            done_at = self._free_at
        time.sleep(max(0.0, done_at - time.monotonic()))
        return data
