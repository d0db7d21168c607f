"""A bundle with an untrained tiny language model: it scores, if not wisely."""

from pathlib import Path
from typing import Any

from pliant.bundle import Bundle
from pliant.tlm.install import install_tlm
from pliant.tlm.training.export import write_tlm
from support.tiny_bundle import make_tiny_bundle
from support.tiny_tlm import tiny_network


def make_bundle_with_tlm(folder: Path, **shape: Any) -> Bundle:
    """A bundle as `make_tiny_bundle` makes it, with a tlm.gguf of fixed random weights."""
    bundle = make_tiny_bundle(folder, **shape)
    draft = folder.with_suffix(".tlm")
    write_tlm(draft, tiny_network(bundle))
    bundle = install_tlm(folder, draft)
    draft.unlink()
    return bundle
