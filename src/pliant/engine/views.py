"""Views that many graphs share: prefixes of weights and of cache rows."""

from pliant.ggml.context import Context
from pliant.ggml.tensor import Tensor

_PER_CONTEXT = 1024


class Views:
    """Makes each view once and owns it. There are as many as there are widths, not plans."""

    def __init__(self) -> None:
        self._contexts: list[Context] = []
        self._made: dict[tuple[int, int, int, int], Tensor] = {}

    def prefix(self, a: Tensor, columns: int, rows: int, offset: int = 0) -> Tensor:
        """`columns` of `rows` rows of the matrix `a`, starting at byte `offset`."""
        if (columns, rows) == a.shape[:2]:
            return a
        key = (a.address, columns, rows, offset)
        view = self._made.get(key)
        if view is None:
            if len(self._made) % _PER_CONTEXT == 0:
                self._contexts.append(Context(max_tensors=_PER_CONTEXT))
            view = self._contexts[-1].view(a, (columns, rows), (a.strides[1],), offset)
            self._made[key] = view
        return view

    def close(self) -> None:
        self._made.clear()
        for context in self._contexts:
            context.close()
        self._contexts.clear()
