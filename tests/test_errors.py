"""The error tree: every class, and the drawing of it at the top of pliant.errors."""

import re

import pytest

from pliant import errors
from pliant.errors import PliantError


def descendants(cls: type[PliantError]) -> list[type[PliantError]]:
    return [cls, *(found for child in cls.__subclasses__() for found in descendants(child))]


CLASSES = [cls for cls in descendants(PliantError) if cls.__module__ == errors.__name__]


def drawn_tree() -> dict[str, tuple[str | None, str]]:
    """Name -> (name of the parent, what is said about it), read from the docstring's drawing."""
    tree: dict[str, tuple[str | None, str]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"([│├└─ ]*)(\w+Error)\s{2,}(\S.*)", line)
        if match:
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            tree[match[2]] = (path[depth - 1] if depth else None, match[3])
    return tree


def test_drawing_shows_every_class_under_its_parent() -> None:
    expected = {
        cls.__name__: None if cls is PliantError else cls.__bases__[0].__name__ for cls in CLASSES
    }
    assert {name: parent for name, (parent, _) in drawn_tree().items()} == expected


@pytest.mark.parametrize("cls", CLASSES)
def test_class_tells_each_edge_what_to_report(cls: type[PliantError]) -> None:
    assert 400 <= cls.http_status < 600
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", cls.code)
    assert cls.exit_code == 2


def test_every_class_has_a_code_of_its_own() -> None:
    assert len({cls.code for cls in CLASSES}) == len(CLASSES)


def test_status_in_the_drawing_is_the_status_of_the_class() -> None:
    for name, (_, text) in drawn_tree().items():
        status = re.search(r"\(HTTP (\d+)\)", text)
        if status:
            assert getattr(errors, name).http_status == int(status[1])


def test_context_overflow_says_how_much_did_not_fit() -> None:
    error = errors.ContextOverflowError("too long", needed_tokens=1200, available_tokens=1024)
    assert (str(error), error.needed_tokens, error.available_tokens) == ("too long", 1200, 1024)
