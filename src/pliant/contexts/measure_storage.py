"""Measure the storage under a folder: once per file system, kept in the cache folder.

The file that is read is written first and dropped from the page cache, or memory would be
measured. Where the system cannot do that, storage seems as fast as memory.
"""

import json
import logging
import math
import os
import random
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from pliant.contexts.storage import StorageProfile
from pliant.paths import cache_folder

logger = logging.getLogger(__name__)

# Of a device that nothing is known of: eMMC, the slowest that is common.
DEFAULT_PROFILE = StorageProfile(bandwidth=200e6, latency_s=200e-6)

_FILE_BYTES = 16 << 20
_BLOCK_BYTES = 1 << 20
_SMALL_BYTES = 4096
_SMALL_READS = 32
_MAX_JSON_BYTES = 4096
_FORMAT = 1


def storage_profile(folder: Path) -> StorageProfile:
    """Of the file system that `folder` is on: from the cache, else measured now (well under 1 s).

    If it cannot be measured, because nothing can be written there, DEFAULT_PROFILE.
    """
    try:
        device = folder.stat().st_dev
    except OSError as error:
        logger.warning("storage was not measured: %s", error)
        return DEFAULT_PROFILE
    path = cache_folder() / "storage" / f"{device}.json"
    known = _read(path)
    if known is not None:
        return known
    try:
        profile = measure_storage(folder)
        _write(path, profile)
    except OSError as error:
        logger.warning("storage was not measured: %s", error)
        return DEFAULT_PROFILE
    return profile


def measure_storage(folder: Path) -> StorageProfile:
    """Median time of small reads at random, and of large ones in order. Raises OSError."""
    with tempfile.TemporaryFile(dir=folder) as file:
        number = file.fileno()
        file.write(random.Random(0).randbytes(_BLOCK_BYTES) * (_FILE_BYTES // _BLOCK_BYTES))
        file.flush()
        os.fsync(number)
        places = random.Random(0).sample(range(_FILE_BYTES // _SMALL_BYTES), _SMALL_READS)
        latency_s = median(_read_s(number, place * _SMALL_BYTES, _SMALL_BYTES) for place in places)
        block_s = median(
            _read_s(number, start, _BLOCK_BYTES) for start in range(0, _FILE_BYTES, _BLOCK_BYTES)
        )
    transfer_s = max(block_s - latency_s, 1e-6)
    return StorageProfile((_BLOCK_BYTES - _SMALL_BYTES) / transfer_s, latency_s)


def _read_s(number: int, start: int, nbytes: int) -> float:
    """Seconds to read what is not in memory."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
    begin = time.perf_counter()
    os.pread(number, nbytes, start)
    return time.perf_counter() - begin


def _read(path: Path) -> StorageProfile | None:
    """What was measured before; None if it is missing or not what `_write` writes."""
    try:
        with path.open("rb") as file:
            document: Any = json.loads(file.read(_MAX_JSON_BYTES))
        if document["format"] != _FORMAT:
            return None
        profile = StorageProfile(float(document["bandwidth"]), float(document["latency_s"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        logger.warning("ignoring %s, measuring again: %s", path, error)
        return None
    is_sane = 1 <= profile.bandwidth < math.inf and 0 <= profile.latency_s < math.inf
    return profile if is_sane else None


def _write(path: Path, profile: StorageProfile) -> None:
    """Replace the file in one step; a cache folder that cannot be written is no error."""
    document = {
        "format": _FORMAT,
        "bandwidth": profile.bandwidth,
        "latency_s": profile.latency_s,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(document))
        temporary.replace(path)
    except OSError as error:
        logger.warning("cannot keep what was measured of the storage in %s: %s", path, error)
