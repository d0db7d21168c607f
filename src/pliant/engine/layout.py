"""Which weights get a faster copy beside the mapped file, by weight type and layout option.

Measured (docs/architecture.md, "Layouts"): rearranged Q4_0 and IQ4_NL win everywhere; rearranged
K-quants win for one token but lose for prompts where ggml has a tiled product for the plain ones;
types that cannot be rearranged gain from column segments only.
"""

from dataclasses import dataclass

from pliant.engine.options import Layout
from pliant.ggml.types import GgmlType

_TILED_WHEN_PLAIN = frozenset({GgmlType.Q4_K, GgmlType.Q2_K})
TILED_FROM_TOKENS = 24
_SMALL_MODEL_BYTES = 64 << 20


@dataclass(frozen=True)
class LayoutPolicy:
    """`model_bytes`: a small model stays in the CPU's caches, where copies gain nothing."""

    layout: Layout
    model_bytes: int
    has_tiled_product: bool

    @property
    def repacks(self) -> bool:
        """Whether weights are rearranged where the CPU has a layout for their type."""
        return self.layout != "plain"

    def cuts(self, repacked: bool) -> bool:
        """Whether o and down are cut into column segments."""
        small = self.layout == "auto" and self.model_bytes < _SMALL_MODEL_BYTES
        return self.layout != "plain" and (repacked or not small)

    def plain_from(self, type_: GgmlType, repacked: bool) -> int | None:
        """From how many tokens on the mapped tensor is used although there is a copy."""
        tiled = self.layout == "auto" and self.has_tiled_product and type_ in _TILED_WHEN_PLAIN
        return TILED_FROM_TOKENS if tiled and repacked else None
