"""One LLM, every latency: an elastic language model served on the device.

    import pliant

    with pliant.load("pocket") as model:
        print(model.generate("The time is", level=0.5).text)

Importing pliant is cheap: nothing below is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pliant._version import __version__
from pliant.errors import PliantError

if TYPE_CHECKING:
    from pliant import errors
    from pliant.engine.generate import Chunk, Generation
    from pliant.engine.model import ElasticModel, load
    from pliant.engine.options import EngineOptions
    from pliant.engine.sampling import SamplingParams
    from pliant.slo import Slo
    from pliant.tlm.compress import Compressed, compress
    from pliant.tlm.protect import Protect

__all__ = [
    "Chunk",
    "Compressed",
    "ElasticModel",
    "EngineOptions",
    "Generation",
    "PliantError",
    "Protect",
    "SamplingParams",
    "Slo",
    "__version__",
    "compress",
    "errors",
    "load",
]

_HOME = {
    "Chunk": "pliant.engine.generate",
    "Compressed": "pliant.tlm.compress",
    "ElasticModel": "pliant.engine.model",
    "EngineOptions": "pliant.engine.options",
    "Generation": "pliant.engine.generate",
    "Protect": "pliant.tlm.protect",
    "SamplingParams": "pliant.engine.sampling",
    "Slo": "pliant.slo",
    "compress": "pliant.tlm.compress",
    "load": "pliant.engine.model",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'pliant' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
