"""Writes a network as `tlm.gguf`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pliant.tlm.format import TlmFile
from pliant.tlm.training.network import TinyNetwork

WeightType = Literal["Q8_0", "F16", "F32"]


def write_tlm(path: str | Path, network: TinyNetwork, weights: WeightType = "Q8_0") -> TlmFile:
    """Write the file, or nothing, and return it opened; `weights` is the matrices' type.

    Raises BundleError if a weight is not finite or the file cannot be written.
    """
    raise NotImplementedError
