"""Products of activations with a layer's matrices: the one place where a projection is computed."""

from collections.abc import Callable

from pliant.engine.corrections import Corrections
from pliant.engine.weights import Weights
from pliant.ggml.context import Context
from pliant.ggml.tensor import Tensor


class Projector:
    """Adds projections to a graph, biases and the adapter's corrections included.

    Matrices go by their GGUF names.
    """

    def __init__(
        self, context: Context, weights: Weights, corrections: Corrections | None = None
    ) -> None:
        self._c = context
        self._weights = weights
        self._corrections = corrections

    def project(self, x: Tensor, index: int, name: str, rows: int) -> Tensor:
        """The first `rows` rows of layer `index`'s matrix times x [columns, n]: [rows, n].

        Raises PlanError if the columns do not fall on the weight type's blocks.
        """
        return self.correct(x, index, name, self.project_uncorrected(x, index, name, rows))

    def project_uncorrected(
        self,
        x: Tensor,
        index: int,
        name: str,
        rows: int,
        *,
        first_row: int = 0,
        first_column: int = 0,
    ) -> Tensor:
        """The product with a part of the matrix; `correct` takes what the parts give together."""
        matrix = self._weights.matrix(index, name)
        product = matrix.multiply(self._c, x, rows, first_row=first_row, first_column=first_column)
        bias = self._weights.find(f"blk.{index}.{name}.bias")
        if bias is None:
            return product
        if rows < bias.shape[0]:
            bias = self._c.view(bias, (rows,), (), first_row * 4)
        return self._c.add(product, bias)

    def correct(self, x: Tensor, index: int, name: str, product: Tensor) -> Tensor:
        """`product` of the matrix and x with what the adapter, if there is one, adds to it."""
        if self._corrections is None:
            return product
        return self._corrections.correct(index, name, [(0, x)], product)

    def project_parts(
        self,
        index: int,
        name: str,
        columns: int,
        tokens: int,
        rows: int,
        part: Callable[[int, int], Tensor],
    ) -> Tensor:
        """As `project` for activations [columns, tokens] that `part(start, stop)` makes piecewise.

        A single token's pieces must be views of one whole.
        """
        pieces: list[tuple[int, Tensor]] = []

        def recorded(start: int, stop: int) -> Tensor:
            piece = part(start, stop)
            pieces.append((start, piece))
            return piece

        matrix = self._weights.matrix(index, name)
        product = matrix.multiply_parts(self._c, columns, tokens, rows, recorded)
        if self._corrections is None:
            return product
        if tokens == 1:
            pieces = [(0, part(0, columns))]
        return self._corrections.correct(index, name, pieces, product)

    def norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        """RMS norm over the first dimension of x, times the weight `name`."""
        return self._c.mul(self._c.rms_norm(x, eps), self._weights.tensor(name))
