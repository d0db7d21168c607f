"""Products of activations with a layer's matrices: the one place where a projection is computed."""

from collections.abc import Callable

from pliant.engine.weights import Weights
from pliant.ggml.context import Context
from pliant.ggml.tensor import Tensor


class Projector:
    """Adds projections to a graph, biases included. Matrices go by their GGUF names."""

    def __init__(self, context: Context, weights: Weights) -> None:
        self._c = context
        self._weights = weights

    def project(
        self,
        x: Tensor,
        index: int,
        name: str,
        rows: int,
        *,
        first_row: int = 0,
        first_column: int = 0,
    ) -> Tensor:
        """`rows` rows of layer `index`'s matrix times x [columns, n]: [rows, n].

        Raises PlanError if the columns do not fall on the weight type's blocks.
        """
        matrix = self._weights.matrix(index, name)
        product = matrix.multiply(self._c, x, rows, first_row=first_row, first_column=first_column)
        bias = self._weights.find(f"blk.{index}.{name}.bias")
        if bias is None:
            return product
        if rows < bias.shape[0]:
            bias = self._c.view(bias, (rows,), (), first_row * 4)
        return self._c.add(product, bias)

    def project_parts(
        self,
        index: int,
        name: str,
        columns: int,
        tokens: int,
        rows: int,
        part: Callable[[int, int], Tensor],
    ) -> Tensor:
        """The same for activations [columns, tokens] that `part(start, stop)` makes piecewise."""
        matrix = self._weights.matrix(index, name)
        return matrix.multiply_parts(self._c, columns, tokens, rows, part)

    def norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        """RMS norm over the first dimension of x, times the weight `name`."""
        return self._c.mul(self._c.rms_norm(x, eps), self._weights.tensor(name))
