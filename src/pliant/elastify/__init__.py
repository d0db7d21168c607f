"""Offline: turn a Hugging Face decoder LLM into an elastic bundle (needs the `elastify` extra).

Names are imported on first use, so that importing this package needs neither torch nor
transformers; a missing one raises `MissingExtraError`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pliant.errors import MissingExtraError

if TYPE_CHECKING:
    from pliant.elastify.estimate import Forecast as Forecast
    from pliant.elastify.estimate import forecast as forecast
    from pliant.elastify.options import ElastifyOptions as ElastifyOptions
    from pliant.elastify.pipeline import elastify as elastify

_MODULES = {
    "elastify": "pliant.elastify.pipeline",
    "forecast": "pliant.elastify.estimate",
    "Forecast": "pliant.elastify.estimate",
    "ElastifyOptions": "pliant.elastify.options",
}
_EXTRA_PACKAGES = {"torch", "transformers", "safetensors", "gguf", "peft", "matplotlib"}

__all__ = ["ElastifyOptions", "Forecast", "elastify", "forecast"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA_PACKAGES:
            raise
        raise MissingExtraError(
            f"making a model elastic needs {error.name}: pip install 'pliant[elastify]'"
        ) from error
