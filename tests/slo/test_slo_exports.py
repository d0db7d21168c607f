import subprocess
import sys

import pytest

from pliant import slo


def test_every_public_name_resolves() -> None:
    assert sorted(slo._MODULES) == sorted(slo.__all__)
    for name in slo.__all__:
        assert getattr(slo, name) is not None


def test_other_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = slo.nothing


def test_importing_loads_no_native_library_and_no_torch() -> None:
    code = (
        "import sys, pliant.slo; from pliant.slo import *\n"
        "heavy = {'ctypes', 'torch', 'llama_cpp', 'pliant.ggml.library'} & set(sys.modules)\n"
        "assert 'pliant.ggml.library' not in heavy and 'torch' not in heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
