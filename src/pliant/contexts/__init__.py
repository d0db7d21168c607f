"""Contexts that outlive the process: a durable journal of tokens, and stored KV as its cache.

with pliant.load() as model, Contexts(model) as contexts:
    context = contexts.create("notes", "Be brief.")
    print(context.call([{"role": "user", "content": "What is due today?"}]).text)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pliant.contexts.call import CallRequest
    from pliant.contexts.context import Context
    from pliant.contexts.contexts import Contexts, ContextsStat
    from pliant.contexts.journal import ContextInfo
    from pliant.contexts.options import ContextOptions, parse_bytes
    from pliant.contexts.report import CallReport
    from pliant.contexts.storage import StorageProfile, parse_storage

__all__ = [
    "CallReport",
    "CallRequest",
    "Context",
    "ContextInfo",
    "ContextOptions",
    "Contexts",
    "ContextsStat",
    "StorageProfile",
    "parse_bytes",
    "parse_storage",
]

_MODULES = {
    "CallReport": "report",
    "CallRequest": "call",
    "Context": "context",
    "ContextInfo": "journal",
    "ContextOptions": "options",
    "Contexts": "contexts",
    "ContextsStat": "contexts",
    "StorageProfile": "storage",
    "parse_bytes": "options",
    "parse_storage": "storage",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
