"""Long texts are read in windows.

Windows do not overlap: each token is computed once. A text is cut into as few of them as hold it,
evenly, so that the last one is no scrap. Every token is scored in its own window; the decision is
pooled from the first and the last, where instructions and questions are.
"""

from __future__ import annotations


def cut(count: int, room: int) -> list[range]:
    """The tokens of each window of a text of `count`; one empty window for an empty text."""
    windows = max(1, -(-count // room))
    edges = [count * index // windows for index in range(windows + 1)]
    return [range(start, end) for start, end in zip(edges, edges[1:], strict=False)]


def deciding(windows: int) -> list[int]:
    """Which windows the decision is made from."""
    return [0] if windows == 1 else [0, windows - 1]
