"""A ggml context: makes tensors and operations, checking in Python what ggml would abort on."""

import ctypes

from pliant.errors import GgmlError, TensorError
from pliant.ggml.declarations import InitParams, bind
from pliant.ggml.owner import Owner
from pliant.ggml.tensor import Tensor, pad_shape
from pliant.ggml.types import TYPE_SIZES, GgmlType

# Which elements rope turns together: neighbours, or i and i + dims/2 ("neox").
ROPE_PAIRS = 0
ROPE_HALVES = 2


class Context(Owner):
    """Owns tensor headers and graphs (never their data); everything made in it dies with it.

    Every operation raises TensorError, naming the shapes, instead of letting ggml abort.
    """

    def __init__(self, max_tensors: int, graph_size: int = 0) -> None:
        """Room for `max_tensors` tensors and, if `graph_size` > 0, one graph of so many nodes."""
        self._c = bind()
        self._room_left = max_tensors
        nbytes = (max_tensors + 1) * self._c.tensor_overhead()
        if graph_size:
            nbytes += self._c.graph_overhead_custom(graph_size, False)
        failed = f"ggml could not reserve {nbytes} bytes for a context"
        self._own(self._c.init(InitParams(nbytes, None, True)), self._c.free, failed)

    def _room(self) -> int:
        """The context's address, for one more tensor: ggml aborts when there is no room."""
        if self._room_left < 1:
            raise TensorError("the context is full: it was made for fewer tensors")
        self._room_left -= 1
        return self.address

    def new_tensor(self, type_: GgmlType, *shape: int) -> Tensor:
        """A tensor without memory; a buffer or the graph allocator gives it some."""
        ne = pad_shape(shape)
        if ne[0] % TYPE_SIZES[type_].block:
            raise TensorError(
                f"a row of {type_.name} holds whole blocks of {TYPE_SIZES[type_].block}, "
                f"not {ne[0]} elements"
            )
        dims = (ctypes.c_int64 * 4)(*ne)
        return Tensor.at(self._c.new_tensor(self._room(), int(type_), 4, dims))

    def new_graph(self, size: int) -> int:
        """Address of an empty graph for up to `size` nodes (pass the same as `graph_size`)."""
        address: int | None = self._c.new_graph_custom(self.address, size, False)
        if not address:
            raise GgmlError(f"ggml could not make a graph of {size} nodes")
        return address

    def tensors(self) -> list[int]:
        """Addresses of all that was made in it, in order."""
        found: list[int] = []
        address = self._c.get_first_tensor(self.address)
        while address:
            found.append(address)
            address = self._c.get_next_tensor(self.address, address)
        return found

    def view(
        self,
        a: Tensor,
        shape: tuple[int, ...],
        strides: tuple[int, ...] = (),
        offset: int = 0,
    ) -> Tensor:
        """A window into `a`: `strides` are the bytes of dimensions 1.. (default: contiguous)."""
        ne0, ne1, ne2, ne3 = pad_shape(shape)
        size = TYPE_SIZES[a.type]
        if ne0 % size.block:
            raise TensorError(f"rows of a view of {a.describe()} are whole blocks of {size.block}")
        row = ne0 // size.block * size.nbytes
        nb1 = strides[0] if strides else row
        nb2 = strides[1] if len(strides) > 1 else nb1 * ne1
        nb3 = strides[2] if len(strides) > 2 else nb2 * ne2
        end = offset + row + (ne1 - 1) * nb1 + (ne2 - 1) * nb2 + (ne3 - 1) * nb3
        if offset < 0 or end > a.extent:
            raise TensorError(f"view {list(shape)} at byte {offset} leaves {a.describe()}")
        return Tensor.at(
            self._c.view_4d(self._room(), a.address, ne0, ne1, ne2, ne3, nb1, nb2, nb3, offset)
        )

    def reshape(self, a: Tensor, *shape: int) -> Tensor:
        ne = pad_shape(shape)
        if not a.is_contiguous or _count(ne) != _count(a.shape):
            raise TensorError(f"{a.describe()} cannot be reshaped to {list(shape)}")
        return Tensor.at(self._c.reshape_4d(self._room(), a.address, *ne))

    def permute(self, a: Tensor, *axes: int) -> Tensor:
        """Dimension i of `a` becomes dimension `axes[i]`."""
        if sorted(axes) != [0, 1, 2, 3]:
            raise TensorError(f"axes must be a permutation of 0..3, got {list(axes)}")
        return Tensor.at(self._c.permute(self._room(), a.address, *axes))

    def cont(self, a: Tensor) -> Tensor:
        return Tensor.at(self._c.cont(self._room(), a.address))

    def concat(self, a: Tensor, b: Tensor, dim: int) -> Tensor:
        same = all(a.shape[i] == b.shape[i] for i in range(4) if i != dim)
        if not 0 <= dim < 4 or a.type != b.type or not same:
            raise TensorError(f"cannot join {a.describe()} and {b.describe()} in dimension {dim}")
        return Tensor.at(self._c.concat(self._room(), a.address, b.address, dim))

    def mul_mat(self, weight: Tensor, x: Tensor) -> Tensor:
        """weight [k, m] times x [k, n] -> [m, n] in F32."""
        (k, _, w2, w3), (n, _, x2, x3) = weight.shape, x.shape
        if k != n or x2 % w2 or x3 % w3:
            raise TensorError(f"cannot multiply {weight.describe()} with {x.describe()}")
        if x.type != GgmlType.F32:
            raise TensorError(f"activations must be F32, got {x.describe()}")
        if weight.strides[0] > weight.strides[1] or x.strides[0] != 4:
            raise TensorError(f"{weight.describe()} or {x.describe()} is transposed")
        return Tensor.at(self._c.mul_mat(self._room(), weight.address, x.address))

    def out_prod(self, a: Tensor, b: Tensor) -> Tensor:
        """a [m, k, z], b [n, k, z], both F32 -> [m, n, z]: sums of outer products over k."""
        if a.shape[1:] != b.shape[1:] or {a.type, b.type} != {GgmlType.F32} or a.strides[0] != 4:
            raise TensorError(f"no outer product of {a.describe()} and {b.describe()}")
        return Tensor.at(self._c.out_prod(self._room(), a.address, b.address))

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        _check_repeatable(a, b, "add")
        return Tensor.at(self._c.add(self._room(), a.address, b.address))

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        _check_repeatable(a, b, "multiply")
        return Tensor.at(self._c.mul(self._room(), a.address, b.address))

    def rms_norm(self, a: Tensor, eps: float) -> Tensor:
        if a.type != GgmlType.F32 or a.strides[0] != 4 or eps < 0:
            raise TensorError(f"rms_norm takes F32 rows and eps >= 0, got {a.describe()}, {eps}")
        return Tensor.at(self._c.rms_norm(self._room(), a.address, eps))

    def norm(self, a: Tensor, eps: float) -> Tensor:
        """Rows of mean 0 and variance 1, as LayerNorm has them before its weight and bias."""
        if a.type != GgmlType.F32 or a.strides[0] != 4 or eps < 0:
            raise TensorError(f"norm takes F32 rows and eps >= 0, got {a.describe()}, {eps}")
        return Tensor.at(self._c.norm(self._room(), a.address, eps))

    def relu(self, a: Tensor) -> Tensor:
        _check_plain(a, "take relu of")
        return Tensor.at(self._c.relu(self._room(), a.address))

    def gelu(self, a: Tensor) -> Tensor:
        """gelu(a) by the error function, exact"""
        _check_plain(a, "take gelu of")
        return Tensor.at(self._c.gelu_erf(self._room(), a.address))

    def scale(self, a: Tensor, factor: float) -> Tensor:
        """a times a number"""
        _check_plain(a, "scale")
        return Tensor.at(self._c.scale(self._room(), a.address, factor))

    def tanh(self, a: Tensor) -> Tensor:
        _check_plain(a, "take tanh of")
        return Tensor.at(self._c.tanh(self._room(), a.address))

    def soft_max(self, a: Tensor, mask: Tensor, scale: float) -> Tensor:
        """softmax(scale * a + mask) along the rows of a [m, n, heads]; mask F16 [m, n]."""
        _check_plain(a, "take softmax of")
        if mask.type != GgmlType.F16 or mask.shape != (*a.shape[:2], 1, 1):
            raise TensorError(f"mask {mask.describe()} does not cover {a.describe()}")
        if not mask.is_contiguous:
            raise TensorError(f"softmax takes a contiguous mask, not {mask.describe()}")
        return Tensor.at(self._c.soft_max_ext(self._room(), a.address, mask.address, scale, 0.0))

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) * up"""
        _check_gated(gate, up, "swiglu")
        return Tensor.at(self._c.swiglu_split(self._room(), gate.address, up.address))

    def geglu(self, gate: Tensor, up: Tensor) -> Tensor:
        """gelu(gate) * up, with gelu's tanh approximation"""
        _check_gated(gate, up, "geglu")
        return Tensor.at(self._c.geglu_split(self._room(), gate.address, up.address))

    def get_rows(self, table: Tensor, rows: Tensor) -> Tensor:
        """table [k, m], rows I32 [n] -> [k, n] in F32. Row numbers are the caller's to check."""
        if rows.type != GgmlType.I32 or table.shape[2] != rows.shape[1]:
            raise TensorError(f"cannot take rows {rows.describe()} of {table.describe()}")
        return Tensor.at(self._c.get_rows(self._room(), table.address, rows.address))

    def set_rows(self, table: Tensor, values: Tensor, rows: Tensor) -> Tensor:
        """Write F32 `values` [k, n, z] into rows `rows` (I64 [n]) of every `table` [k, m, z]."""
        fits = table.shape[0] == values.shape[0] and values.shape[1] == rows.shape[0]
        fits = fits and table.shape[2:] == values.shape[2:]
        if not fits or values.type != GgmlType.F32 or rows.type != GgmlType.I64:
            raise TensorError(
                f"cannot write {values.describe()} at {rows.describe()} of {table.describe()}"
            )
        return Tensor.at(
            self._c.set_rows(self._room(), table.address, values.address, rows.address)
        )

    def rope(
        self,
        a: Tensor,
        positions: Tensor,
        factors: Tensor | None,
        *,
        dims: int,
        base: float,
        scale: float,
        original_context: int,
        halves: bool = False,
        magnitude: float = 1.0,
    ) -> Tensor:
        """Rotary position embedding of a [head_dim, heads, n] at positions I32 [n].

        Turns the first `dims` of each head: neighbouring pairs, or (`halves`) elements i and
        i + dims/2. `factors` F32 [dims/2] divides the frequencies (Llama 3, Phi-3), `magnitude`
        multiplies the result (longrope).
        """
        if positions.type != GgmlType.I32 or positions.shape[0] != a.shape[2]:
            raise TensorError(f"positions {positions.describe()} do not fit {a.describe()}")
        if dims % 2 or not 0 < dims <= a.shape[0]:
            raise TensorError(f"cannot rotate {dims} dimensions of {a.describe()}")
        if factors is not None and (factors.type != GgmlType.F32 or factors.shape[0] < dims // 2):
            raise TensorError(f"rope factors {factors.describe()} do not cover {dims} dimensions")
        return Tensor.at(
            self._c.rope_ext(
                self._room(),
                a.address,
                positions.address,
                None if factors is None else factors.address,
                dims,
                ROPE_HALVES if halves else ROPE_PAIRS,
                original_context,
                base,
                scale,
                0.0,
                magnitude,
                32.0,
                1.0,
            )
        )

    def flash_attention(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, softcap: float = 0.0
    ) -> Tensor:
        """q [d, n, heads], k and v [d, m, kv_heads], mask F16 [m, n] -> [d, heads, n].

        A fourth dimension holds independent attentions, each with its own mask [m, n, 1, batch].
        `softcap` c > 0 bounds the scaled scores s to c * tanh(s / c).
        """
        grouped = k.shape[2] > 0 and q.shape[2] % k.shape[2] == 0
        batched = q.shape[3] == k.shape[3] == mask.shape[3]
        if q.shape[0] != k.shape[0] or k.shape != v.shape or not grouped or not batched:
            raise TensorError(
                f"attention of {q.describe()} over {k.describe()} and {v.describe()}: shapes differ"
            )
        if softcap < 0:
            raise TensorError(f"a softcap is at least 0, got {softcap}")
        covers = mask.shape[0] == k.shape[1] and mask.shape[1] >= q.shape[1]
        if mask.type != GgmlType.F16 or mask.shape[2] != 1 or not covers:
            raise TensorError(f"mask {mask.describe()} does not cover {q.describe()}")
        if q.type != GgmlType.F32 or not mask.is_contiguous:
            raise TensorError(f"attention takes an F32 query and a contiguous mask: {q.describe()}")
        return Tensor.at(
            self._c.flash_attn_ext(
                self._room(), q.address, k.address, v.address, mask.address, scale, 0.0, softcap
            )
        )


def _count(shape: tuple[int, int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2] * shape[3]


def _check_plain(a: Tensor, verb: str) -> None:
    if a.type != GgmlType.F32 or not a.is_contiguous:
        raise TensorError(f"can {verb} contiguous F32 tensors only, not {a.describe()}")


def _check_gated(gate: Tensor, up: Tensor, name: str) -> None:
    rows_apart = gate.strides[0] != 4 or up.strides[0] != 4
    if gate.shape != up.shape or gate.type != up.type or rows_apart:
        raise TensorError(f"{name} of {gate.describe()} and {up.describe()}: shapes differ")


def _check_repeatable(a: Tensor, b: Tensor, verb: str) -> None:
    """ggml repeats `b` to the shape of `a`."""
    (a0, a1, a2, a3), (b0, b1, b2, b3) = a.shape, b.shape
    if a0 % b0 or a1 % b1 or a2 % b2 or a3 % b3:
        raise TensorError(f"cannot {verb} {a.describe()} and {b.describe()}")
    if a.type != GgmlType.F32 or b.type != GgmlType.F32:
        raise TensorError(f"cannot {verb} {a.describe()} and {b.describe()}: both must be F32")
