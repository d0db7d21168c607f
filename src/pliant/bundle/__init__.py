"""Read, write and check bundles: a GGUF model, its levels and where they come from."""

from pliant.bundle.adapters import Adapter, adapter_file_name, write_adapter
from pliant.bundle.architecture import Architecture
from pliant.bundle.bundle import Bundle, open_bundle
from pliant.bundle.check import Finding, check
from pliant.bundle.cost import cost_ratio, per_token_cost
from pliant.bundle.describe import Description, describe
from pliant.bundle.family import FAMILIES, Family
from pliant.bundle.gguf import GgufFile, TensorInfo
from pliant.bundle.installed import InstalledBundle, installed_bundles
from pliant.bundle.levels import check_levels, with_adapter
from pliant.bundle.plan import LayerPlan, Level, Plan
from pliant.bundle.tensors import weight_tensors
from pliant.bundle.write import put_tlm, write_bundle

__all__ = [
    "FAMILIES",
    "Adapter",
    "Architecture",
    "Bundle",
    "Description",
    "Family",
    "Finding",
    "GgufFile",
    "InstalledBundle",
    "LayerPlan",
    "Level",
    "Plan",
    "TensorInfo",
    "adapter_file_name",
    "check",
    "check_levels",
    "cost_ratio",
    "describe",
    "installed_bundles",
    "open_bundle",
    "per_token_cost",
    "put_tlm",
    "weight_tensors",
    "with_adapter",
    "write_adapter",
    "write_bundle",
]
