"""Random adapters for tests."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pliant.bundle import (
    Adapter,
    Architecture,
    Bundle,
    Plan,
    adapter_file_name,
    with_adapter,
    write_adapter,
    write_bundle,
)
from pliant.bundle.modules import modules


def random_factors(
    architecture: Architecture, plan: Plan, rank: int = 8, seed: int = 0
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per module that `plan` runs A [rank, in] and B [out, rank]; B A is about half of W."""
    random = np.random.default_rng(seed)
    return {
        module.name: (
            random.standard_normal((rank, module.columns), dtype=np.float32) / module.columns**0.5,
            random.standard_normal((module.rows, rank), dtype=np.float32) / rank**0.5 / 2,
        )
        for module in modules(architecture, plan)
    }


def make_adapter(
    path: Path, architecture: Architecture, plan: Plan, quantization: str = "F16", **options: int
) -> Adapter:
    factors = random_factors(architecture, plan, **options)
    rank = next(iter(factors.values()))[0].shape[0]
    return write_adapter(path, architecture.name, factors, 2.0 * rank, quantization)


def add_adapters(bundle: Bundle, quantization: str = "F16", **options: int) -> Bundle:
    """Write `bundle` again, with a random adapter for every level but the full one."""
    with TemporaryDirectory(dir=bundle.path.parent) as draft:
        levels, files = [], {}
        for level in bundle.levels:
            if level.ratio < 1.0:
                name = adapter_file_name(level.ratio)
                files[name] = Path(draft) / name
                adapter = make_adapter(
                    files[name], bundle.architecture, level.plan, quantization, **options
                )
                level = with_adapter(bundle.architecture, level, name, adapter)
            levels.append(level)
        provenance = {} if bundle.manifest is None else bundle.manifest.provenance
        return write_bundle(bundle.path, bundle.gguf.path, levels, provenance, files)
