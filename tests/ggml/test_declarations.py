"""The ctypes declarations against the headers that the installed libraries came with."""

import ctypes
import re
from pathlib import Path

import pytest

from pliant.ggml import declarations, library
from pliant.ggml.declarations import BASE, CPU, TensorStruct, bind
from pliant.ggml.types import TYPE_SIZES, GgmlType

HEADERS = library.library_folder().parent.parent / "include"


def c_prototype(name: str) -> tuple[str, list[str]]:
    """Result and argument declarations of a function, from the headers."""
    text = "\n".join(path.read_text() for path in sorted(HEADERS.glob("ggml*.h")))
    text = re.sub(r"//[^\n]*", "", text)
    match = re.search(rf"GGML_(?:BACKEND_)?API\s+([\w\s\*]+?)\b{name}\s*\(([^()]*)\)", text)
    assert match, f"{name} is not in the headers"
    arguments = " ".join(match[2].split())
    return " ".join(match[1].split()), [] if arguments == "void" else arguments.split(",")


HANDLES = re.compile(r"ggml_(backend_(buffer_type|buffer|reg|dev)|gallocr|backend)_t\b")


def c_type(declaration: str) -> object:
    """The ctypes type a C declaration stands for."""
    if "char *" in declaration:
        return ctypes.c_char_p
    if "*" in declaration or HANDLES.search(declaration):
        return ctypes.c_void_p
    words = declaration.split()
    if "enum" in words:
        return ctypes.c_int
    types = {
        "void": None,
        "int": ctypes.c_int,
        "int64_t": ctypes.c_int64,
        "size_t": ctypes.c_size_t,
        "float": ctypes.c_float,
        "bool": ctypes.c_bool,
    }
    known = [word for word in words if word in types]
    return types[known[0]] if known else ctypes.Structure


@pytest.mark.skipif(not HEADERS.is_dir(), reason="the headers are not installed")
@pytest.mark.parametrize("name", [*BASE, *CPU])
def test_declaration_matches_the_header(name: str) -> None:
    result, arguments = (BASE | CPU)[name]
    c_result, c_arguments = c_prototype(name)
    assert result == c_type(c_result)
    assert len(arguments) == len(c_arguments)
    for ours, declaration in zip(arguments, c_arguments, strict=True):
        expected = c_type(declaration)
        if expected is ctypes.Structure:
            assert issubclass(ours, ctypes.Structure)
        elif expected is ctypes.c_void_p:
            assert ours is ctypes.c_void_p or ours.__name__.startswith("LP_")
        else:
            assert ours is expected, declaration


@pytest.mark.skipif(not HEADERS.is_dir(), reason="the headers are not installed")
def test_every_comment_is_the_header_prototype() -> None:
    source = Path(declarations.__file__).read_text()
    for name in BASE | CPU:
        comment = re.search(rf"((?:    # [^\n]*\n)+)    \"{name}\"", source)
        assert comment, name
        written = re.sub(r"\s*#\s*", " ", comment[1])
        result, arguments = c_prototype(name)
        header = f"{result} {name}({','.join(arguments) or 'void'})"
        assert re.sub(r"\s", "", written) == re.sub(r"\s", "", header)


def test_tensor_struct_is_as_large_as_ggml_says() -> None:
    object_header = 32
    assert ctypes.sizeof(TensorStruct) + object_header == bind().tensor_overhead()


def test_type_sizes_are_ggmls() -> None:
    c = bind()
    for type_ in GgmlType:
        size = TYPE_SIZES[type_]
        assert (c.blck_size(type_), c.type_size(type_)) == (size.block, size.nbytes), type_.name
