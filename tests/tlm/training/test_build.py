"""Networks from Hugging Face folders: a small BERT, a real one, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from pliant.errors import BundleError, TrainingError
from pliant.tlm.inputs import PassShape
from pliant.tlm.model import TinyModel
from pliant.tlm.passes import PassRunner
from pliant.tlm.training.build import encoder_network
from pliant.tlm.training.export import WeightType, write_tlm
from support.tiny_tlm import TEXTS, keeps, minilm, pieces, torch_reading, wordpiece

transformers.utils.logging.disable_progress_bar()
LEVELS = (0.5, 1.0)
# The run time against transformers on the real encoder, as a share of the largest hidden state.
HIDDEN_TOLERANCE: dict[WeightType, float] = {"F32": 1e-5, "F16": 1e-3, "Q8_0": 3e-2}


def make_folder(folder: Path, **changes: Any) -> Path:
    config = BertConfig(
        vocab_size=320,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=96,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=wordpiece()).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_a_bert_folder_gives_a_network_that_runs(tmp_path: Path) -> None:
    network = encoder_network(make_folder(tmp_path / "bert"), LEVELS, window=40)
    config = network.config
    assert (config.trunk_layers, config.score_layers, config.decision_layers) == (2, 2, 1)
    assert list(network.vocabulary.pieces) == pieces(wordpiece())
    file = write_tlm(tmp_path / "tlm.gguf", network, "F32")
    assert file.vocabulary() == pieces(wordpiece())
    assert file.lowercase
    with TinyModel(tmp_path / "tlm.gguf", threads=1) as model:
        for text in TEXTS[2:]:
            found, expected = model.read(text, 0.4, 0.6), torch_reading(network, text, 0.4, 0.6)
            np.testing.assert_allclose(keeps(found.tokens), expected.keep, atol=2e-5)
            np.testing.assert_allclose(found.levels, expected.levels, atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "is a roberta model; encoders of BERT's architecture"),
        ({"model_type": "modernbert"}, "is a modernbert model"),
        ({"model_type": "no-such"}, "is a no-such model"),
        ({"hidden_size": "wide"}, "no encoder that transformers reads"),
        ({"is_decoder": True}, "as a decoder"),
        ({"position_embedding_type": "relative_key"}, "relative_key positions"),
        ({"hidden_act": "gelu_new"}, "activation is 'gelu_new'"),
    ],
)
def test_other_encoders_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = make_folder(tmp_path / "other", **changes)
    with pytest.raises((TrainingError, BundleError), match=message):
        encoder_network(folder, LEVELS, window=40)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trunk_layers": 4}, "has 4 layers, which do not make a trunk of 4"),
        ({"decision_layers": 3}, "branches of 2 and 3"),
        ({"score_layers": 0}, "branches of 0 and 1"),
        ({"window": 65}, "has 64 positions"),
    ],
)
def test_layers_that_are_not_there(tmp_path: Path, options: dict[str, int], message: str) -> None:
    folder = make_folder(tmp_path / "bert")
    with pytest.raises(TrainingError, match=message):
        encoder_network(folder, LEVELS, **{"window": 40, **options})


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="it has no config.json"):
        encoder_network(tmp_path / "nothing", LEVELS)


@torch.no_grad()
def test_a_real_encoders_hidden_states(tmp_path: Path) -> None:
    folder = minilm()
    # The last layer but one is the trunk's end, so nearly all of the encoder is compared.
    network = encoder_network(folder, LEVELS, trunk_layers=5)
    ids = network.vocabulary.tokenizer("Anna's café opens at 10:30; don't be late! " * 12).ids
    reference = BertModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    framed = torch.tensor([[network.config.cls_token, *ids, network.config.sep_token]])
    expected = reference(framed, output_hidden_states=True).hidden_states[5][0].numpy()
    for weights, tolerance in HIDDEN_TOLERANCE.items():
        file = write_tlm(tmp_path / "tlm.gguf", network, weights)
        passes = PassRunner(file, threads=1)
        shape = PassShape(1, passes.length(len(ids)), is_scored=False, deciding=0)
        found = passes.run(shape, [ids], (0, 0)).hidden
        passes.close()
        assert found is not None
        atol = tolerance * float(np.abs(expected).max())
        np.testing.assert_allclose(found[0, : len(ids) + 2], expected, atol=atol, err_msg=weights)
