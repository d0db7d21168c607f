"""Memory for tensors: buffers ggml allocates, and memory Python owns (mmapped files, arenas)."""

import ctypes
import mmap
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pliant.errors import GgmlError, TensorError
from pliant.ggml.context import Context
from pliant.ggml.declarations import TensorStruct, bind
from pliant.ggml.owner import Owner
from pliant.ggml.tensor import Tensor, bytes_at
from pliant.ggml.types import TYPE_SIZES, GgmlType

ALIGNMENT = 64

# On x86, asking for another type in the repack buffer crashes instead of answering.
_REPACK_CANDIDATES = frozenset(
    {GgmlType.Q4_0, GgmlType.Q4_K, GgmlType.Q2_K, GgmlType.IQ4_NL, GgmlType.MXFP4}
)


class Buffer(Owner):
    """Owns a ggml buffer; tensors placed in it must not outlive it."""

    def __init__(self, address: int | None, size: int, owner: object = None) -> None:
        """`owner` is kept alive as long as the buffer (the memory behind a foreign pointer)."""
        c = bind()
        self._own(address, c.backend_buffer_free, f"ggml could not allocate {size} bytes")
        self._memory = owner
        self.size = size
        self.base: int = c.backend_buffer_get_base(address)

    @classmethod
    def allocate(cls, size: int, *, repacked: bool = False) -> "Buffer":
        """Ordinary CPU memory, or (`repacked`) memory that rearranges weights written to it."""
        c = bind()
        kind = repack_buffer_type() if repacked else c.backend_cpu_buffer_type()
        if kind is None:
            raise GgmlError("this CPU has no repacked weight layout")
        buffer = cls(c.backend_buft_alloc_buffer(kind, size), size)
        advise_huge_pages(buffer.base, size)
        return buffer

    @classmethod
    def zeroed(cls, size: int) -> "Buffer":
        """Zero pages that take physical memory only once they are written.

        Raises GgmlError if the system does not give so many.
        """
        try:
            memory = _map_pages(max(size, mmap.PAGESIZE))
        except (OSError, OverflowError) as error:
            raise GgmlError(f"the system does not give {size} bytes of memory: {error}") from error
        return cls.over(np.frombuffer(memory, dtype=np.uint8))

    @classmethod
    def over(cls, memory: NDArray[np.uint8]) -> "Buffer":
        """A buffer over memory Python owns, e.g. an mmapped file; it must start on 64 bytes."""
        pointer = memory.ctypes.data
        if pointer % ALIGNMENT:
            raise TensorError(f"buffer memory must be aligned to {ALIGNMENT} bytes")
        address = bind().backend_cpu_buffer_from_ptr(pointer, memory.nbytes)
        return cls(address, memory.nbytes, owner=memory)

    def place(self, tensor: Tensor, offset: int) -> None:
        """Give `tensor` the memory at `offset`. Raises TensorError if it does not fit."""
        if offset < 0 or offset + tensor.nbytes > self.size:
            raise TensorError(
                f"{tensor.describe()} at byte {offset} leaves a {self.size} byte buffer"
            )
        if bind().backend_tensor_alloc(self.address, tensor.address, self.base + offset) != 0:
            raise TensorError(f"ggml could not place {tensor.describe()}")

    def bytes(self) -> NDArray[np.uint8]:
        """The buffer's memory as an array; valid until the buffer is closed."""
        return bytes_at(self.base, self.size)

    def close(self) -> None:
        super().close()
        self._memory = None


def write(tensor: Tensor, data: NDArray[np.generic]) -> None:
    """Copy `data` (contiguous, exactly the tensor's bytes) in; a repack buffer rearranges it."""
    if data.nbytes != tensor.nbytes or not data.flags.c_contiguous:
        raise TensorError(f"{data.nbytes} bytes do not fill a {tensor.describe()}")
    bind().backend_tensor_set(tensor.address, data.ctypes.data, 0, data.nbytes)


@cache
def repack_buffer_type() -> int | None:
    """ggml's buffer type of rearranged weights, if this build and CPU have one."""
    c = bind()
    registry = c.backend_cpu_reg()
    entry = c.backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
    if not entry:
        return None
    # ggml_backend_buffer_type_t * (*)(ggml_backend_dev_t device), ended by NULL
    signature = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)
    kinds = signature(entry)(c.backend_reg_dev_get(registry, 0))
    position = 0
    while kinds and kinds[position]:
        kind: int = kinds[position]
        if c.backend_buft_name(kind) == b"CPU_REPACK":
            return kind
        position += 1
    return None


@cache
def can_repack(type_: GgmlType, rows: int) -> bool:
    """Whether weights of `type_` with so many rows have a rearranged layout on this CPU."""
    if type_ not in _REPACK_CANDIDATES or repack_buffer_type() is None:
        return False
    size = TYPE_SIZES[type_]
    buffer = Buffer.allocate(rows * size.nbytes + ALIGNMENT, repacked=True)
    with Context(max_tensors=1) as context:
        tensor = context.new_tensor(type_, size.block, rows)
        buffer.place(tensor, 0)
        supported = bool(TensorStruct.from_address(tensor.address).extra)
    buffer.close()
    return supported


def release_pages(base: int, size: int) -> None:
    """Give the whole pages of private memory back; they read as zeros until written again.

    Does nothing where the system has no such call.
    """
    advice = getattr(mmap, "MADV_DONTNEED", None)
    start = -(-base // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (base + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if advice is not None and end > start:
        _madvise(start, end - start, advice)


def _map_pages(size: int) -> mmap.mmap:
    """Pages of 4 KiB that reading does not take memory for: attention reads past a slot's end."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with suppress(OSError):  # A kernel without huge pages.
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory


def advise_huge_pages(base: int, size: int) -> None:
    """Ask for 2 MiB pages where the system leaves the choice to programs (Linux)."""
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None:
        return
    start = -(-base // mmap.PAGESIZE) * mmap.PAGESIZE
    length = base + size - start
    if length > 0:
        _madvise(start, length, advice)


def trim_heap() -> None:
    """Give back what is free in the heap, which keeps most of it otherwise; some milliseconds.

    Does nothing where the C library is not glibc.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _madvise(start: int, length: int, advice: int) -> None:
    _system_madvise()(start, length, advice)


@cache
def _system_madvise() -> Any:
    madvise = ctypes.CDLL(None).madvise
    # int madvise(void * addr, size_t length, int advice)
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    madvise.restype = ctypes.c_int
    return madvise
