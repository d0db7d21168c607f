"""Read, write and check bundles: a GGUF model, its levels and where they come from."""

from pliant.bundle.architecture import Architecture
from pliant.bundle.bundle import Bundle, open_bundle
from pliant.bundle.cost import cost_ratio, per_token_cost
from pliant.bundle.gguf import GgufFile, TensorInfo
from pliant.bundle.plan import LayerPlan, Level, Plan

__all__ = [
    "Architecture",
    "Bundle",
    "GgufFile",
    "LayerPlan",
    "Level",
    "Plan",
    "TensorInfo",
    "cost_ratio",
    "open_bundle",
    "per_token_cost",
]
