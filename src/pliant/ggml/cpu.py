"""What ggml says about this machine: CPU features its kernels use, and devices."""

import ctypes
from dataclasses import dataclass
from enum import IntEnum

from pliant.ggml.library import Libraries, load

# int ggml_cpu_has_<name>(void), ggml-cpu.h
_FEATURES = (
    "sse3",
    "ssse3",
    "avx",
    "avx_vnni",
    "avx2",
    "bmi2",
    "f16c",
    "fma",
    "avx512",
    "avx512_vbmi",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "neon",
    "arm_fma",
    "fp16_va",
    "dotprod",
    "matmul_int8",
    "sve",
    "sme",
    "sme2",
    "riscv_v",
    "vsx",
    "vxe",
    "wasm_simd",
    "llamafile",
)


class DeviceKind(IntEnum):
    """Numbers as in `enum ggml_backend_dev_type` (ggml-backend.h)."""

    CPU = 0
    GPU = 1
    IGPU = 2
    ACCEL = 3
    META = 4


@dataclass(frozen=True)
class Device:
    """A device of a ggml backend; memory in bytes, 0 where the backend does not tell."""

    name: str
    description: str
    kind: DeviceKind
    memory_free: int
    memory_total: int


def cpu_features() -> tuple[str, ...]:
    """Features that both this CPU and the installed build of ggml have.

    Raises LibraryError if ggml cannot be loaded.
    """
    cpu = load().cpu
    return tuple(name for name in _FEATURES if _has(cpu, name))


def devices() -> tuple[Device, ...]:
    """All devices of all backends in the installed build of ggml.

    Raises LibraryError if ggml cannot be loaded.
    """
    libraries = load()
    _declare(libraries)
    registry = libraries.registry
    count = registry.ggml_backend_dev_count()
    return tuple(_device(libraries, registry.ggml_backend_dev_get(i)) for i in range(count))


def _has(cpu: ctypes.CDLL, name: str) -> bool:
    function = getattr(cpu, f"ggml_cpu_has_{name}")
    function.argtypes = []
    function.restype = ctypes.c_int
    return bool(function())


def _device(libraries: Libraries, handle: int) -> Device:
    base = libraries.base
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    base.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
    return Device(
        name=base.ggml_backend_dev_name(handle).decode(),
        description=base.ggml_backend_dev_description(handle).decode(errors="replace").strip(),
        kind=DeviceKind(base.ggml_backend_dev_type(handle)),
        memory_free=free.value,
        memory_total=total.value,
    )


def _declare(libraries: Libraries) -> None:
    size_pointer = ctypes.POINTER(ctypes.c_size_t)
    registry, base = libraries.registry, libraries.base
    # size_t ggml_backend_dev_count(void)
    registry.ggml_backend_dev_count.argtypes = []
    registry.ggml_backend_dev_count.restype = ctypes.c_size_t
    # ggml_backend_dev_t ggml_backend_dev_get(size_t index)
    registry.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    registry.ggml_backend_dev_get.restype = ctypes.c_void_p
    # const char * ggml_backend_dev_name(ggml_backend_dev_t device)
    base.ggml_backend_dev_name.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_name.restype = ctypes.c_char_p
    # const char * ggml_backend_dev_description(ggml_backend_dev_t device)
    base.ggml_backend_dev_description.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_description.restype = ctypes.c_char_p
    # void ggml_backend_dev_memory(ggml_backend_dev_t device, size_t * free, size_t * total)
    base.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size_pointer, size_pointer]
    base.ggml_backend_dev_memory.restype = None
    # enum ggml_backend_dev_type ggml_backend_dev_type(ggml_backend_dev_t device)
    base.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_type.restype = ctypes.c_int
