"""The gated MLP of a layer, over the first of its neurons."""

from pliant.bundle import Architecture
from pliant.engine.projection import Projector
from pliant.ggml.context import Context
from pliant.ggml.tensor import Tensor


def add_mlp(
    c: Context, architecture: Architecture, projector: Projector, x: Tensor, index: int, ff: int
) -> Tensor:
    """down(act(gate(x)) * up(x)) [hidden, n], with `ff` neurons of layer `index`."""
    gated = c.geglu if architecture.family.activation == "gelu" else c.swiglu
    gate = projector.project(x, index, "ffn_gate", ff)
    up = projector.project(x, index, "ffn_up", ff)

    tokens = x.shape[1]
    whole = gated(gate, up) if tokens == 1 else None

    def part(start: int, stop: int) -> Tensor:
        if (start, stop) == (0, ff):
            return gated(gate, up) if whole is None else whole
        shape, offset = (stop - start, tokens), start * 4
        if whole is not None:
            return c.view(whole, shape, (), offset)
        halves = [c.view(half, shape, (half.strides[1],), offset) for half in (gate, up)]
        return gated(*halves)

    hidden = architecture.hidden_size
    return projector.project_parts(index, "ffn_down", ff, tokens, hidden, part)
