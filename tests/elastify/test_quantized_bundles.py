"""Every quantization from a Hugging Face folder to llama.cpp, with an importance matrix."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from pliant.bundle import check
from pliant.elastify import ElastifyOptions, elastify, export
from pliant.elastify.quantization import QUANTIZATIONS
from pliant.engine.engine import Engine
from pliant.engine.options import EngineOptions
from pliant.engine.span import Span
from pliant.export import export_gguf
from support.llama_reference import reference_logits
from support.tiny_hf import make_folder

LAYERS = 2
# Rows of every matrix are whole blocks of 256.
SHAPE = {"num_hidden_layers": LAYERS, "hidden_size": 256, "head_dim": 64, "intermediate_size": 512}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 4}
OUTPUTS = {"F16": "F16", "Q8_0": "Q8_0", "Q6_K": "Q6_K", "Q5_K": "Q6_K", "Q4_K": "Q6_K"}
OUTPUTS["Q4_0"] = "Q8_0"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("quantized"), tie_word_embeddings=False, **SHAPE)


def test_all_are_tried() -> None:
    assert set(OUTPUTS) == set(QUANTIZATIONS)


@pytest.mark.parametrize("name", OUTPUTS)
def test_llama_cpp_computes_what_the_engine_does(
    name: str,
    source: Path,
    calibration_file: Path,
    tokens: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weighed: list[bool] = []
    encode = export.encode

    def recording(weight: Any, type_: Any, importance: Any) -> Any:
        weighed.append(importance is not None)
        return encode(weight, type_, importance)

    monkeypatch.setattr(export, "encode", recording)
    options = ElastifyOptions(
        quantization=name, plan="uniform", targets=(0.8,), windows=2, window_tokens=32
    )
    bundle = elastify(source, tmp_path / "b", calibration=calibration_file, options=options)
    assert check(bundle) == []
    assert sum(weighed) == 7 * LAYERS
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(bundle.gguf.path).tensors}
    assert types["output.weight"] == OUTPUTS[name]
    assert types["blk.0.attn_q.weight"] == types["blk.1.ffn_down.weight"] == name
    prompt = tokens.tolist()
    engine = Engine(bundle, EngineOptions(slots=1, threads=1, layout="plain"))
    for level in bundle.levels:
        path = bundle.gguf.path
        if level.ratio < 1:
            path = export_gguf(bundle, level, tmp_path / f"{level.ratio}.gguf")
        found = engine.forward(level, [Span(0, prompt, 0, "all")])
        np.testing.assert_allclose(found, reference_logits(path, prompt), atol=1e-3 * np.ptp(found))
    engine.close()
