"""A bundle with an untrained tiny language model: it scores, if not wisely."""

from pathlib import Path
from typing import Any

import torch

from pliant.bundle import Bundle
from pliant.tlm.install import install_tlm
from pliant.tlm.training.build import Shape, fresh_network
from pliant.tlm.training.export import write_tlm
from support.tiny_bundle import make_tiny_bundle


def make_bundle_with_tlm(folder: Path, **shape: Any) -> Bundle:
    """A bundle as `make_tiny_bundle` makes it, with a tlm.gguf of fixed random weights."""
    bundle = make_tiny_bundle(folder, **shape)
    torch.set_num_threads(1)
    network = fresh_network(bundle, Shape(hidden_size=32, ff=32, num_heads=1), seed=1)
    draft = folder.with_suffix(".tlm")
    write_tlm(draft, network)
    bundle = install_tlm(folder, draft)
    draft.unlink()
    return bundle
