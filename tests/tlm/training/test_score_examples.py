import pytest

from pliant.tlm.labels.rows import ScoreRow
from pliant.tlm.tokens import TextTokens
from pliant.tlm.training.network import TinyNetwork
from pliant.tlm.training.score_examples import NO_TARGET, score_examples, token_targets
from support.tiny_bundle import make_tiny_bundle
from support.tiny_tlm import tiny_network


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> TinyNetwork:
    return tiny_network(make_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


def test_a_token_takes_the_value_of_the_word_it_touches() -> None:
    # "the wifi, now": tokens begin with the space before a word, as in byte-level BPE.
    tokens = TextTokens(list(range(6)), [0, 3, 6, 8, 9, 11], [3, 6, 8, 9, 11, 13])
    row = ScoreRow("the wifi, now", ((0, 3, 0.25), (4, 8, 1.0), (10, 13, 0.5)))
    assert token_targets(tokens, row) == [0.25, 1.0, 1.0, NO_TARGET, 0.5, 0.5]


def test_windows_without_a_label_are_left_out(network: TinyNetwork) -> None:
    words = "one two three four five six seven eight nine ten " * 12
    labelled = ScoreRow(words, ((0, 3, 1.0), (4, 7, 0.0)))
    [example] = score_examples(network, [labelled, ScoreRow(words, ()), ScoreRow("", ())])
    assert len(example.ids) == len(example.targets) <= network.config.room
    assert set(example.targets) == {0.0, 1.0, NO_TARGET}
