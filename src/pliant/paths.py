"""Where pliant keeps files of its own: nothing is written anywhere else."""

import os
from pathlib import Path

import platformdirs

from pliant.errors import PliantError


def cache_folder() -> Path:
    """Measurements that can be made again (latency models); PLIANT_CACHE overrides it."""
    return _folder("PLIANT_CACHE", platformdirs.user_cache_path("pliant"))


def home_folder() -> Path:
    """Bundles (`bundles`) and persistent contexts (`contexts`); PLIANT_HOME overrides it."""
    return _folder("PLIANT_HOME", platformdirs.user_data_path("pliant"))


def contexts_folder() -> Path:
    """Journal and stored KV of the persistent contexts."""
    return home_folder() / "contexts"


def _folder(variable: str, default: Path) -> Path:
    value = os.environ.get(variable)
    if not value:
        return default
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise PliantError(f"{variable} is {value!r}: {error}") from error
