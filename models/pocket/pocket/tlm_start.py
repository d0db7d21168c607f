"""The weights that the built-in model's TLM is trained from.

What a line of a screen has to do with the request, a small encoder finds by words that are alike
and words that stand together, and from random weights it learns both late. So it begins with
them. Three quarters of a token's vector are the LLM's own embedding along its principal
directions, one quarter is its place (sines, as in arXiv 1706.03762, section 3.5). The heads of
each layer attend in turn to tokens that are alike, and note where these stand, and to tokens that
are near, and note what those noted. The notes take the place of the directions that tell least.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from gguf import quants
from gguf.constants import GGMLQuantizationType

from pliant.bundle import Bundle
from pliant.tlm.training.network import Layer, TinyNetwork

EMBEDDING = "token_embd.weight"
STD = 0.05
ALIKE, NEAR = 0.8, 1.2
"""How sharply heads attend to tokens that are alike, and to those that are near."""

NOTE = 1.5
"""How large the notes are beside what a token begins with."""

NOISE = 0.1
"""Of the random weights of queries, keys and what is noted, how much stays."""

LONGEST_WAVE = 1000.0


@torch.no_grad()
def start_from(network: TinyNetwork, bundle: Bundle) -> None:
    """Changes the weights of a fresh network, which reads with the bundle's tokenizer."""
    size = network.config.hidden_size
    content = size - size // 4
    rows = narrow_embeddings(bundle, content)
    network.token_embd.weight[:, content:] = 0
    network.token_embd.weight[: len(rows), :content] = rows * (STD / rows.std())
    network.position_embd.weight[:, :content] = 0
    places = _sines(network.config.window, size // 4)
    network.position_embd.weight[:, content:] = places * (STD / places.std())
    for layer in (*network.trunk, *network.score):
        assert isinstance(layer, Layer)
        _look(layer, network.config.num_heads, content)


def narrow_embeddings(bundle: Bundle, size: int) -> torch.Tensor:
    """[tokens, size]: the LLM's embeddings along their `size` principal directions."""
    info = bundle.gguf.tensors[EMBEDDING]
    data = np.frombuffer(bundle.gguf.tensor_bytes(EMBEDDING), dtype=np.uint8)
    values = quants.dequantize(data, GGMLQuantizationType(int(info.type)))
    rows = torch.from_numpy(values.copy()).reshape(info.shape[::-1]).float()
    centred = rows - rows.mean(dim=0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    return centred @ directions[:size].T


def _sines(count: int, size: int) -> torch.Tensor:
    """[count, size]: neighbours have nearly the same."""
    waves = torch.exp(-torch.arange(size // 2) * math.log(LONGEST_WAVE) / (size // 2))
    angles = torch.arange(count)[:, None] * waves
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


def _look(layer: Layer, num_heads: int, content: int) -> None:
    """Queries and keys of even heads read the content, of odd heads the place; see above."""
    size = layer.attn_qkv.in_features
    places = size - content
    alike, near = content - places, content - 2 * places
    per_head = size // num_heads
    weights = layer.attn_qkv.weight.view(3, num_heads, per_head, size)
    outputs = layer.attn_output.weight.view(size, num_heads, per_head)
    for head in range(num_heads):
        is_near = head % 2 == 1
        first, sharpness = (content, NEAR) if is_near else (0, ALIKE)
        read = torch.arange(min(per_head, (size if is_near else content) - first))
        for part in weights[:2, head]:
            part *= NOISE
            part[read, first + read] += sharpness
        noted = torch.arange(min(per_head, places))
        source, target = (alike, near) if is_near else (content, alike)
        weights[2, head, noted] *= NOISE
        weights[2, head, noted, source + noted] += 1
        outputs[target + noted, head, noted] += NOTE
