"""The memory graphs read their inputs from, shared by all graphs."""

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from pliant.engine.span import Span
from pliant.ggml.placed import PlacedTensors
from pliant.ggml.tensor import Tensor
from pliant.ggml.types import GgmlType

# The bits of 0.0 and of minus infinity in half precision.
_VISIBLE, _HIDDEN = 0, 0xFC00


class Inputs:
    """Tokens, positions and KV rows of a batch, the outputs wanted, and one mask per span.

    `sliding_masks` are those of layers that see only the last `window` tokens; None where a
    context is no longer than that, since all layers see the same then.
    """

    def __init__(self, max_batch: int, context_length: int, window: int | None = None) -> None:
        self._placed = PlacedTensors(max_tensors=6)
        self.tokens = self._placed.new(GgmlType.I32, max_batch)
        self.positions = self._placed.new(GgmlType.I32, max_batch)
        self.kv_rows = self._placed.new(GgmlType.I64, max_batch)
        self.outputs = self._placed.new(GgmlType.I32, max_batch)
        self.masks = self._placed.new(GgmlType.F16, max_batch * context_length)
        self._tokens = self.tokens.numpy().reshape(-1)
        self._positions = self.positions.numpy().reshape(-1)
        self._kv_rows = self.kv_rows.numpy().reshape(-1)
        self._outputs = self.outputs.numpy().reshape(-1)
        self._mask_rows = [_mask_row(context_length, context_length)]
        self._targets = [self.masks.numpy().reshape(-1)]
        self.sliding_masks: Tensor | None = None
        if window is not None and window < context_length:
            self.sliding_masks = self._placed.new(GgmlType.F16, max_batch * context_length)
            self._mask_rows.append(_mask_row(context_length, window))
            self._targets.append(self.sliding_masks.numpy().reshape(-1))
        masks = [target.view(np.uint16).data for target in self._targets]
        self._step = self._tokens.data, self._positions.data, self._kv_rows.data, masks
        self._windows = [context_length, window or context_length]
        self._counter = np.arange(max(max_batch, context_length), dtype=np.int32)

    def write(
        self, spans: Sequence[Span], kv_lengths: Sequence[int], first_rows: Sequence[int]
    ) -> None:
        """Fill in a batch. `kv_lengths` are the padded KV lengths, one per span."""
        token = output = cell = 0
        for span, kv_length, first_row in zip(spans, kv_lengths, first_rows, strict=True):
            n, start = len(span.tokens), span.start
            if n == 1:
                self._write_step(token, span.tokens[0], start, first_row + start)
            else:
                self._write_prompt(token, span, first_row + start)
            if span.outputs == "all":
                np.add(self._counter[:n], token, out=self._outputs[output : output + n])
            elif span.outputs == "last":
                self._outputs[output] = token + n - 1
            for row, masks in zip(self._mask_rows, self._targets, strict=True):
                _write_mask(row, masks[cell : cell + n * kv_length], n, start, kv_length)
            token += n
            output += span.num_outputs
            cell += n * kv_length

    def advance(self, token: int) -> None:
        """After a batch of one token: its successor in the same slot and padded KV length."""
        tokens, positions, kv_rows, masks = self._step
        position = positions[0] + 1
        tokens[0] = token
        positions[0] = position
        kv_rows[0] += 1
        for mask, window in zip(masks, self._windows, strict=False):
            mask[position] = _VISIBLE
            if position >= window:
                mask[position - window] = _HIDDEN

    def _write_step(self, at: int, token: int, position: int, row: int) -> None:
        self._tokens[at] = token
        self._positions[at] = position
        self._kv_rows[at] = row

    def _write_prompt(self, at: int, span: Span, first_row: int) -> None:
        n = len(span.tokens)
        self._tokens[at : at + n] = span.tokens
        np.add(self._counter[:n], span.start, out=self._positions[at : at + n])
        np.add(self._counter[:n], first_row, out=self._kv_rows[at : at + n])

    def close(self) -> None:
        self._placed.close()


def _mask_row(context_length: int, window: int) -> NDArray[np.float16]:
    """hidden..., visible (`window` of them), hidden...: the mask of a token at position p is the
    part of this row that begins at context_length - 1 - p."""
    row = np.full(2 * context_length, -np.inf, dtype=np.float16)
    row[context_length - window : context_length] = 0
    return row


def _write_mask(
    row: NDArray[np.float16], target: NDArray[np.float16], n: int, start: int, kv_length: int
) -> None:
    """Line i of `target` hides what the token at position start + i does not see."""
    first = row[len(row) // 2 - 1 - start :]
    if n == 1:
        target[:] = first[:kv_length]
    else:
        target.reshape(n, kv_length)[:] = as_strided(first, (n, kv_length), (-2, 2))
