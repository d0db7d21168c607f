"""The products with an adapter's factors, in a graph."""

from collections.abc import Sequence

from pliant.engine.adapters import Factors, LevelAdapter
from pliant.ggml.context import Context
from pliant.ggml.tensor import Tensor
from pliant.ggml.types import row_size

# Upper bounds of the tensors that corrections take, per layer and per piece of an input.
TENSORS_PER_LAYER = 40
TENSORS_PER_PIECE = 3


class Corrections:
    """Adds scale * B (A x) to products in one graph; A x is computed once per group."""

    def __init__(self, context: Context, adapter: LevelAdapter) -> None:
        self._c = context
        self._adapter = adapter
        self._hidden: dict[int, Tensor] = {}
        self._stacked: dict[int, Tensor] = {}

    def correct(
        self, index: int, part: str, pieces: Sequence[tuple[int, Tensor]], product: Tensor
    ) -> Tensor:
        """`product` [rows, n] of module `part` of layer `index`, corrected.

        `pieces` are the module's input [columns, n], or rows of it with the number of the first.
        """
        factors = self._adapter.factors(index, part)
        hidden = self._hidden.get(factors.a.address)
        if hidden is None:
            hidden = self._hidden[factors.a.address] = self._multiply_a(factors.a, pieces)
        rows = product.shape[0]
        if product.shape[1] == 1:
            delta = self._stacked_step(factors, hidden)
            delta = self._c.view(delta, (rows, 1), (), factors.position * rows * 4)
        else:
            plane = factors.position * factors.b.strides[2]
            b = self._c.view(factors.b, (rows, factors.rank), (), plane)
            delta = self._out_prod(b, hidden, factors.first_row + factors.position * factors.rank)
        return self._c.add(product, delta)

    def _multiply_a(self, a: Tensor, pieces: Sequence[tuple[int, Tensor]]) -> Tensor:
        """[rank * modules, n]"""
        c, total = self._c, None
        for start, x in pieces:
            columns = x.shape[0]
            whole = columns == a.shape[0]
            shape, offset = (columns, a.shape[1]), row_size(a.type, start)
            weight = a if whole else c.view(a, shape, (a.strides[1],), offset)
            product = c.mul_mat(weight, x)
            total = product if total is None else c.add(total, product)
        assert total is not None
        return total

    def _stacked_step(self, factors: Factors, hidden: Tensor) -> Tensor:
        """All modules of equal size at once: for a single token, threads share these."""
        stacked = self._stacked.get(factors.b.address)
        if stacked is None:
            stacked = self._out_prod(factors.b, hidden, factors.first_row)
            self._stacked[factors.b.address] = stacked
        return stacked

    def _out_prod(self, b: Tensor, hidden: Tensor, first_row: int) -> Tensor:
        """b [rows, rank, k] and rank * k rows of hidden [.., n] -> [rows, n, k]"""
        rank, count = b.shape[1:3]
        width, tokens = hidden.shape[:2]
        part = self._c.view(hidden, (rank, tokens, count), (width * 4, rank * 4), first_row * 4)
        return self._c.out_prod(b, self._c.permute(part, 1, 0, 2, 3))
