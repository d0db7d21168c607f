"""A level's adapter as the engine runs it.

The file's factors are rewritten for ggml's fast products: the A of modules with the same input
are stacked into one matrix, and every B is transposed to float32 with the scale in it, because a
product with rows as short as the rank is slow and a sum of outer products (`out_prod`) is not.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from pliant.bundle import Adapter, Architecture, Plan, TensorInfo
from pliant.bundle.adapters import decode_factor
from pliant.bundle.modules import Module, layer_modules
from pliant.ggml.context import Context
from pliant.ggml.memory import ALIGNMENT, Buffer, release_pages
from pliant.ggml.tensor import Tensor, bytes_at
from pliant.ggml.types import GgmlType

_GROUPS = (("attn_q", "attn_k", "attn_v"), ("attn_output",), ("ffn_gate", "ffn_up"), ("ffn_down",))
RESIDENT_BYTES = 64 << 20
"""Of adapters that stay loaded beside the one in use: all of a small model's."""


@dataclass(frozen=True)
class Factors:
    """Of one module: `a` [in, rank * m] holds the A of its group of m modules, this one's from
    row `first_row` on; `b` [rows, rank, k] the B of the modules of equal size, this one's at
    `position`."""

    a: Tensor
    first_row: int
    b: Tensor
    position: int

    @property
    def rank(self) -> int:
        return self.b.shape[1]


class LevelAdapter:
    """Owns the run-time form of an adapter, in memory that is physical only while it is loaded.

    Addresses never change, so graphs stay valid when it is unloaded and loaded again.
    """

    def __init__(self, adapter: Adapter, architecture: Architecture, plan: Plan) -> None:
        """`adapter` must fit (`Adapter.check_fits`). Raises GgmlError without memory."""
        self._adapter = adapter
        self._context = Context(max_tensors=2 * len(adapter.names))
        self._factors: dict[str, Factors] = {}
        self._a: list[tuple[Tensor, list[TensorInfo]]] = []
        self._b: list[tuple[Tensor, list[TensorInfo]]] = []
        for index, layer in enumerate(plan.layers):
            modules = {module.name: module for module in layer_modules(architecture, index, layer)}
            for group in _GROUPS:
                names = [f"blk.{index}.{part}.weight" for part in group]
                self._add_group([modules[name] for name in names if name in modules])
        tensors = [tensor for tensor, _ in (*self._a, *self._b)]
        self.nbytes = sum(_aligned(tensor.nbytes) for tensor in tensors) + ALIGNMENT
        self._buffer = Buffer.allocate(self.nbytes)
        offset = -self._buffer.base % ALIGNMENT
        for tensor in tensors:
            self._buffer.place(tensor, offset)
            offset += _aligned(tensor.nbytes)

    def factors(self, index: int, part: str) -> Factors:
        """Of the module `part` ('attn_q') of layer `index`."""
        return self._factors[f"blk.{index}.{part}.weight"]

    def load(self) -> None:
        """Read the factors and write them as they run."""
        gguf = self._adapter.gguf
        for tensor, infos in self._a:
            assert tensor.data is not None
            stacked = [np.frombuffer(gguf.tensor_bytes(info.name), np.uint8) for info in infos]
            np.concatenate(stacked, out=bytes_at(tensor.data, tensor.nbytes))
        scale = np.float32(self._adapter.scale)
        for tensor, infos in self._b:
            planes = tensor.numpy()[0]  # numpy's order: [modules, rank, rows]
            for plane, info in zip(planes, infos, strict=True):
                factor = decode_factor(gguf.tensor_bytes(info.name), info)
                np.multiply(factor.T, scale, out=plane)
        gguf.release()

    def unload(self) -> None:
        """Give the memory back to the system."""
        release_pages(self._buffer.base, self.nbytes)

    def close(self) -> None:
        """Free everything; graphs that use the adapter must be gone."""
        self._context.close()
        self._buffer.close()

    def _add_group(self, modules: Sequence[Module]) -> None:
        """Modules with the same input."""
        if not modules:
            return
        rank, tensors = self._adapter.rank, self._adapter.gguf.tensors
        infos = [tensors[f"{module.name}.lora_a"] for module in modules]
        a = self._context.new_tensor(infos[0].type, modules[0].columns, rank * len(modules))
        self._a.append((a, infos))
        first_row = 0
        for rows, equal in groupby(modules, lambda module: module.rows):
            names = [module.name for module in equal]
            b = self._context.new_tensor(GgmlType.F32, rows, rank, len(names))
            self._b.append((b, [tensors[f"{name}.lora_b"] for name in names]))
            for position, name in enumerate(names):
                self._factors[name] = Factors(a, first_row, b, position)
            first_row += rank * len(names)


class AdapterPool:
    """Owns the adapters of all levels that were asked for; the last RESIDENT_BYTES stay loaded."""

    def __init__(self) -> None:
        self._owned: list[LevelAdapter] = []
        self._loaded: OrderedDict[int, LevelAdapter] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Memory of those that are loaded."""
        return sum(adapter.nbytes for adapter in self._loaded.values())

    def add(self, adapter: Adapter, architecture: Architecture, plan: Plan) -> LevelAdapter:
        made = LevelAdapter(adapter, architecture, plan)
        self._owned.append(made)
        return made

    def use(self, adapter: LevelAdapter) -> None:
        """Load `adapter` if it is not, in the place of the one not used for longest."""
        key = id(adapter)
        if key in self._loaded:
            self._loaded.move_to_end(key)
            return
        while self._loaded and self.nbytes + adapter.nbytes > RESIDENT_BYTES:
            self._loaded.popitem(last=False)[1].unload()
        adapter.load()
        self._loaded[key] = adapter

    def close(self) -> None:
        for adapter in self._owned:
            adapter.close()
        self._owned.clear()
        self._loaded.clear()


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
