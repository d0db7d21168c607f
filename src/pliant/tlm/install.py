"""Puts a tiny language model into a bundle, after looking whether the two belong together."""

from __future__ import annotations

from pathlib import Path

from pliant.bundle import Bundle, open_bundle, put_tlm
from pliant.errors import BundleError
from pliant.tlm.format import TlmFile, vocabulary_sha256


def install_tlm(folder: str | Path, tlm_gguf: str | Path) -> Bundle:
    """Add `tlm_gguf` to the bundle at `folder`, or replace the one there; returns it opened.

    Raises BundleError if the file is damaged, decides on other levels than the bundle's, or shares
    the tokenizer of another model.
    """
    tlm = TlmFile.open(tlm_gguf)
    check_belongs(tlm, open_bundle(folder))
    return put_tlm(folder, tlm_gguf)


def check_belongs(tlm: TlmFile, bundle: Bundle) -> None:
    """Raise BundleError unless `tlm` was made for `bundle`."""
    levels = tuple(level.ratio for level in bundle.levels)
    if tlm.config.levels != levels:
        raise BundleError(
            f"{tlm.gguf.path} decides on the levels {_listed(tlm.config.levels)}, {bundle.name} "
            f"has {_listed(levels)}: train it for this bundle"
        )
    if tlm.vocabulary_sha256 not in (None, vocabulary_sha256(bundle.gguf)):
        raise BundleError(
            f"{tlm.gguf.path} shares the tokenizer of another model than {bundle.name}'s: train it "
            "for this bundle"
        )


def _listed(ratios: tuple[float, ...]) -> str:
    return ", ".join(f"{ratio:g}" for ratio in ratios)
