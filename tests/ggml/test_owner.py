"""Native objects are freed once: by close(), a `with`, or the last reference."""

from collections.abc import Callable
from typing import Any

import pytest

from pliant.errors import GgmlError
from pliant.ggml.backend import Backend, GraphAllocator
from pliant.ggml.context import Context
from pliant.ggml.memory import Buffer
from pliant.ggml.owner import Owner
from pliant.ggml.types import GgmlType


class Counted(Owner):
    def __init__(self, address: int | None, freed: list[int]) -> None:
        self._own(address, freed.append, "there is none")


def test_an_object_is_freed_once() -> None:
    freed: list[int] = []
    with Counted(7, freed) as owner:
        assert owner.address == 7 and freed == []
    owner.close()
    del owner
    assert freed == [7]
    Counted(8, freed)
    assert freed == [7, 8]


def test_an_object_that_was_not_made_is_not_freed() -> None:
    freed: list[int] = []
    with pytest.raises(GgmlError, match="there is none"):
        Counted(None, freed)
    assert freed == []


@pytest.mark.parametrize(
    ("make", "use"),
    [
        (lambda: Backend(1), lambda backend: backend.compute(1)),
        (GraphAllocator, lambda allocator: allocator.allocate(1)),
        (lambda: Context(4, graph_size=4), lambda context: context.new_graph(4)),
        (lambda: Context(4), lambda context: context.new_tensor(GgmlType.F32, 4)),
        (
            lambda: Buffer.allocate(64),
            lambda buffer: buffer.place(Context(1).new_tensor(GgmlType.F32, 4), 0),
        ),
    ],
)
def test_a_closed_object_is_not_given_to_c(
    make: Callable[[], Any], use: Callable[[Any], Any]
) -> None:
    owner = make()
    owner.close()
    with pytest.raises(GgmlError, match="is closed"):
        use(owner)
