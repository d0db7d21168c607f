"""Memory that goes back to the system as soon as it is dropped.

What is freed in the heap stays with the process while anything behind it is in use: chunks that
come and go would make it hold far more than they are.
"""

import mmap


def held_bytes(nbytes: int) -> int:
    """What so many bytes take in pages of their own."""
    return -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE


def new_pages(nbytes: int) -> memoryview:
    """Zeroed memory for so many bytes, 1 or more."""
    return memoryview(mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def in_own_pages(data: bytes | memoryview) -> memoryview:
    """A read-only copy of `data`, not empty, that takes `held_bytes` until its last reference."""
    pages = new_pages(len(data))
    pages[:] = data
    return pages.toreadonly()
