"""A matplotlib figure as one SVG element for a page: titled, without ids or colours of its own."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

# Drawn instead of black, and made the page's own text colour afterwards.
TEXT = "#010203"
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 10,
    "font.family": "sans-serif",
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), TEXT
    ),
    "axes.formatter.use_mathtext": False,
}
_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


@dataclass(frozen=True)
class Picture:
    """`svg` is one element, `text` says in words what it shows."""

    svg: str
    text: str


def picture(name: str, draw: Callable[[], Figure], text: str) -> Picture:
    """What `draw` returns; `name` is unique in the page, `text` is for those who cannot see it."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        draw().savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for child in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(child)
    _drop_unused_ids(root)
    described = ElementTree.Element(f"{{{_SVG}}}title", {"id": f"{name}-title"})
    described.text = text
    root.insert(0, described)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title")
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _LINK)
    svg = ElementTree.tostring(root, encoding="unicode")
    return Picture(svg.replace(TEXT, "currentColor"), text)


def _drop_unused_ids(root: ElementTree.Element) -> None:
    """Every figure calls its parts `axes_1` and so on; ids that are referred to are hashes."""
    text = ElementTree.tostring(root, encoding="unicode")
    for element in root.iter():
        identifier = element.get("id")
        if identifier is not None and f"#{identifier}" not in text:
            del element.attrib["id"]
