"""The built-in model's token embeddings, in fewer dimensions."""

from __future__ import annotations

import numpy as np
import torch
from gguf import quants
from gguf.constants import GGMLQuantizationType

from pliant.bundle import Bundle

TENSOR = "token_embd.weight"


def narrow_embeddings(bundle: Bundle, size: int) -> torch.Tensor:
    """[tokens, size]: the embeddings along their `size` principal directions."""
    info = bundle.gguf.tensors[TENSOR]
    data = np.frombuffer(bundle.gguf.tensor_bytes(TENSOR), dtype=np.uint8)
    values = quants.dequantize(data, GGMLQuantizationType(int(info.type)))
    rows = torch.from_numpy(values.copy()).reshape(info.shape[::-1]).float()
    centred = rows - rows.mean(dim=0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    return centred @ directions[:size].T
