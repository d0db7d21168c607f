"""Find and load the ggml and llama.cpp libraries that llama-cpp-python installs.

Knows nothing of single functions: `declarations` and `llama` set their prototypes.
"""

import ctypes
import importlib.util
import os
import re
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from pliant.errors import LibraryError
from pliant.ggml.log import LOG_CALLBACK, forward_to_logging

SUPPORTED_PACKAGE = ((0, 3, 36), (0, 4, 0))
_SUFFIXES = ("so", "dylib", "dll")


@dataclass(frozen=True)
class Libraries:
    """Loaded libraries; `version` is ggml's own, `package_version` llama-cpp-python's.

    `registry` (libggml) knows every backend that was built, `cpu` is the one we compute with.
    """

    base: ctypes.CDLL
    cpu: ctypes.CDLL
    registry: ctypes.CDLL
    llama: ctypes.CDLL
    version: str
    package_version: str
    folder: Path


@cache
def load() -> Libraries:
    """Load once per process.

    Raises LibraryError if llama-cpp-python is absent, of an unsupported version, or incomplete.
    """
    package_version = _check_package_version()
    folder = library_folder()
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    names = ("ggml-base", "ggml-cpu", "ggml", "llama")
    base, cpu, registry, llama = (_open(folder, name) for name in names)
    base.ggml_version.argtypes = []
    base.ggml_version.restype = ctypes.c_char_p
    version = base.ggml_version().decode()
    for library in (base.ggml_log_set, llama.llama_log_set):
        library.argtypes = [LOG_CALLBACK, ctypes.c_void_p]
        library.restype = None
        library(forward_to_logging, None)
    return Libraries(base, cpu, registry, llama, version, package_version, folder)


def library_folder() -> Path:
    """Folder of the shared libraries, found without importing llama_cpp."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise LibraryError(
            "llama-cpp-python is not installed; run: pip install 'llama-cpp-python>=0.3.36,<0.4'"
        )
    return Path(spec.origin).parent / "lib"


def _check_package_version() -> str:
    try:
        version = metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:
        raise LibraryError(
            "llama-cpp-python is not installed; run: pip install 'llama-cpp-python>=0.3.36,<0.4'"
        ) from None
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:3])
    low, high = SUPPORTED_PACKAGE
    if not low <= numbers < high:
        raise LibraryError(
            f"llama-cpp-python {version} is installed, but pliant needs >=0.3.36,<0.4; "
            "run: pip install 'llama-cpp-python>=0.3.36,<0.4'"
        )
    return version


def _open(folder: Path, name: str) -> ctypes.CDLL:
    for suffix in _SUFFIXES:
        for path in (folder / f"lib{name}.{suffix}", folder / f"{name}.{suffix}"):
            if path.exists():
                try:
                    return ctypes.CDLL(str(path))
                except OSError as error:
                    raise LibraryError(f"cannot load {path}: {error}") from error
    raise LibraryError(
        f"lib{name} is not in {folder}; reinstall llama-cpp-python: "
        "pip install --force-reinstall 'llama-cpp-python>=0.3.36,<0.4'"
    )
