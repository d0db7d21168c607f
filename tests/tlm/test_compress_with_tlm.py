"""The bundle's own TLM is the scorer where none is given."""

from collections.abc import Iterator

import pytest

from pliant.bundle import Bundle
from pliant.engine.model import ElasticModel
from pliant.tlm.compress import compress, compress_prompt
from pliant.tlm.model import TinyModel
from support.bundle_with_tlm import make_bundle_with_tlm

TEXT = "the quick brown fox jumps over the lazy dog and then it rests for a very long while"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle_with_tlm(tmp_path_factory.mktemp("tlm") / "tiny")


@pytest.fixture(scope="module")
def tlm(bundle: Bundle) -> Iterator[TinyModel]:
    assert bundle.tlm_path is not None
    with TinyModel(bundle.tlm_path, model=bundle.gguf.path) as tlm:
        yield tlm


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.9])
def test_the_tlm_of_the_bundle_scores(bundle: Bundle, tlm: TinyModel, ratio: float) -> None:
    given = compress(TEXT, ratio, model=bundle.path, scorer=tlm)
    assert compress(TEXT, ratio, model=bundle.path) == given
    assert given.ratio <= ratio


def test_the_words_of_the_highest_scores_stay(bundle: Bundle, tlm: TinyModel) -> None:
    [tokens] = tlm.scores([TEXT])
    done = compress(TEXT, 0.5, model=bundle.path, scorer=tlm)
    words, position = {}, 0
    for word in TEXT.split():
        start = TEXT.index(word, position)
        position = start + len(word)
        inside = [t.keep for t in tokens if t.start < position and t.end > start]
        is_kept = any(a <= start < b for a, b in done.kept)
        words[start] = sum(inside) / len(inside), is_kept
    assert min(s for s, kept in words.values() if kept) >= max(
        s for s, kept in words.values() if not kept
    )


def test_a_loaded_model_has_its_own(bundle: Bundle) -> None:
    with ElasticModel(bundle) as model:
        done = compress_prompt(TEXT, 0.5, model=model)
    assert done.prompt == compress(TEXT, 0.5, model=bundle.path).text


@pytest.mark.parametrize(
    "text", ["", "a", "a\ud800b \udfff c", "学校へ行きました " * 3, "\x00 \x01"]
)
def test_any_text(bundle: Bundle, text: str) -> None:
    done = compress(text, 0.5, model=bundle.path)
    rest = iter(text)
    assert all(character in rest for character in done.text)
    assert done.num_tokens <= done.num_original_tokens
