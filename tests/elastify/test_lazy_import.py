import subprocess
import sys

import pytest


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_importing_the_package_loads_neither_torch_nor_transformers() -> None:
    assert (
        run(
            "import sys, pliant.elastify, pliant.elastify.levels;"
            "print({'torch', 'transformers', 'gguf'} & set(sys.modules))"
        )
        == "set()\n"
    )


@pytest.mark.parametrize("package", ["torch", "transformers", "gguf", "peft", "matplotlib"])
def test_a_missing_package_names_the_extra(package: str) -> None:
    out = run(
        f"import sys; sys.modules[{package!r}] = None\n"
        "import pliant.elastify\n"
        "from pliant.errors import MissingExtraError\n"
        "try:\n    pliant.elastify.elastify\n"
        "except MissingExtraError as error:\n    print(error)"
    )
    assert package in out
    assert "pip install 'pliant[elastify]'" in out


def test_an_unknown_name_is_an_attribute_error() -> None:
    import pliant.elastify

    with pytest.raises(AttributeError, match="nonsense"):
        pliant.elastify.nonsense  # noqa: B018
