"""What the store counts and reports."""

from dataclasses import dataclass


@dataclass
class Counters:
    """What happened since the store was opened; it adds to them as it goes."""

    puts: int = 0
    put_bytes: int = 0
    failed_puts: int = 0
    reads: int = 0
    read_bytes: int = 0
    missing: int = 0
    corrupt: int = 0
    evicted_contexts: int = 0
    repairs: int = 0


@dataclass(frozen=True)
class StoreStats:
    """What lies on the disk now, and what happened since the store was opened.

    `disk_bytes` are all packs, `dead_bytes` what of them no context needs. `failed_puts` could
    not be kept; `missing` and `corrupt` chunks were asked for and not given. `repairs` are packs
    that were found gone, shorter or torn, and indexes that had to be made again.
    """

    num_contexts: int
    num_chunks: int
    num_references: int
    disk_bytes: int
    dead_bytes: int
    quota_bytes: int
    puts: int
    put_bytes: int
    failed_puts: int
    reads: int
    read_bytes: int
    missing: int
    corrupt: int
    evicted_contexts: int
    repairs: int
