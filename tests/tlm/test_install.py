"""A tiny language model in a bundle: added, replaced, shown, and refused where it is foreign."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pliant.bundle import Bundle, check, open_bundle
from pliant.cli import main
from pliant.errors import BundleError, CorruptFileError
from pliant.tlm.install import install_tlm
from pliant.tlm.model import TinyModel
from pliant.tlm.training.export import write_tlm
from support.tiny_bundle import make_tiny_bundle
from support.tiny_tlm import tiny_network


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_tiny_bundle(tmp_path / "tiny")


def test_added_and_replaced(bundle: Bundle, tmp_path: Path) -> None:
    assert bundle.tlm_path is None
    for seed in (1, 2):
        draft = tmp_path / "draft.gguf"
        write_tlm(draft, tiny_network(bundle, seed=seed))
        found = install_tlm(bundle.path, draft)
        assert found.tlm_path == bundle.path / "tlm.gguf"
        assert found.tlm_path.read_bytes() == draft.read_bytes()
        assert check(found) == []
        with TinyModel(found.tlm_path) as model:
            assert model.levels == (0.3, 0.5, 1.0)
            assert len(model.read("Turn on the wifi").tokens) > 3
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "draft.gguf"}
    assert (found.levels, found.sha256) == (bundle.levels, bundle.sha256)


def test_a_bundle_without_its_tlm_is_damaged(bundle: Bundle, tmp_path: Path) -> None:
    write_tlm(tmp_path / "draft.gguf", tiny_network(bundle))
    found = install_tlm(bundle.path, tmp_path / "draft.gguf")
    assert found.tlm_path is not None
    found.tlm_path.unlink()
    with pytest.raises(CorruptFileError, match=r"tlm\.gguf is missing"):
        open_bundle(bundle.path)


def other_levels(folder: Path, bundle: Bundle) -> Path:
    path = folder / "m.gguf"
    write_tlm(path, tiny_network(open_bundle(bundle.gguf.path)))
    return path


def other_tokenizer(folder: Path, bundle: Bundle) -> Path:
    path = folder / "m.gguf"
    write_tlm(path, tiny_network(make_tiny_bundle(folder / "other", vocab=300)))
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [(other_levels, "levels 1, tiny has 0.3, 0.5, 1"), (other_tokenizer, "tokenizer of another")],
)
def test_what_was_made_for_another_bundle_is_refused(
    bundle: Bundle, tmp_path: Path, make: Callable[[Path, Bundle], Path], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        install_tlm(bundle.path, make(tmp_path, bundle))
    assert open_bundle(bundle.path).tlm_path is None


def test_shown(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tlm(tmp_path / "draft.gguf", tiny_network(bundle))
    install_tlm(bundle.path, tmp_path / "draft.gguf")
    assert main(["show", str(bundle.path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "tlm.gguf" in shown
    assert "tiny LM 2 + 1 + 2 layers (shared, scores, decision), 64 wide" in shown
    assert main(["show", "--json", str(bundle.path)]) == 0
    assert json.loads(capsys.readouterr().out)["files"]["tlm.gguf"] > 0
