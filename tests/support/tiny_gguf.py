"""Make a small random GGUF of any family with a real byte-level BPE tokenizer and chat template."""

import json
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pliant.bundle import FAMILIES
from pliant.ggml.quantize import quantize
from pliant.ggml.types import GgmlType
from support.family_gguf import add_family_keys, layer_shapes, long_factors

SPECIAL_TOKENS = ("<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|pad|>")
BOS, EOS = 0, 1
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] | trim + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
CORPUS = (
    "Turn on the wifi and the bluetooth, please. What does the notification say?\n",
    "The message from Anna says: meet me at 10:30 in the station. Don't be late!\n",
    "Choose the function for the request: set_alarm(hour, minute), send_message(name, text).\n",
    "Die Nachricht wurde um 8 Uhr geschickt; l'été à Zürich coûte 25 €. 日本語のテキスト 👍\n",
    '{"name": "set_brightness", "arguments": {"value": 42, "unit": "percent"}}\n',
)


@cache
def make_tokenizer(vocab: int = 320) -> Tokenizer:
    """Train the byte-level BPE; at most `vocab` tokens, special tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def make_tiny_gguf(
    path: str | Path,
    *,
    family: str = "llama",
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int | None = None,
    ff: int = 96,
    vocab: int = 320,
    type: str = "F16",
    context: int = 256,
    tied: bool = True,
    rope_factors: bool = False,
    rope_base: float = 10000.0,
    chat_template: str | None = CHAT_TEMPLATE,
    add_bos: bool = True,
    seed: int = 0,
    **features: Any,
) -> Path:
    """Write the model to `path` and return it; the same arguments give the same bytes.

    `type` is the type of all matrices (vectors stay F32): F32, F16, BF16, Q8_0, Q4_0, Q4_K, ...
    Quantized rows must be whole blocks: `hidden`, `ff` and `heads * head_dim` divisible by 32
    (256 for K types). `rope_factors` adds Llama 3's `rope_freqs.weight`. `features` as
    `support.family_gguf` takes them.
    """
    path = Path(path)
    head_dim = head_dim or hidden // heads
    kind = FAMILIES[family]
    writer = gguf.GGUFWriter(path, family)
    writer.add_name("tiny")
    writer.add_block_count(layers)
    writer.add_context_length(context)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(ff)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_freq_base(rope_base)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocab)
    add_family_keys(writer, kind, head_dim, context, **features)
    _add_tokenizer(writer, vocab, chat_template, add_bos)

    random = np.random.default_rng(seed)
    matrix_type = gguf.GGMLQuantizationType[type]

    def matrix(name: str, rows: int, columns: int, scale: float = 1.0) -> None:
        data = random.standard_normal((rows, columns), dtype=np.float32) * scale / columns**0.5
        writer.add_tensor(name, _quantize(data, matrix_type), raw_dtype=matrix_type)

    def vector(name: str, length: int = hidden, mean: float = 1.0) -> None:
        data = mean + 0.1 * random.standard_normal(length, dtype=np.float32)
        writer.add_tensor(name, data.astype(np.float32))

    matrix("token_embd.weight", vocab, hidden, scale=2.0)
    vector("output_norm.weight")
    if not tied:
        matrix("output.weight", vocab, hidden)
    if rope_factors:
        factors = np.linspace(1, 8, head_dim // 2, dtype=np.float32)
        writer.add_tensor("rope_freqs.weight", factors)
    for name, factors in long_factors(kind, head_dim, **features).items():
        writer.add_tensor(name, factors)
    shapes = layer_shapes(kind, hidden, heads * head_dim, kv_heads * head_dim, head_dim, ff)
    for layer, (name, shape) in product(range(layers), shapes.items()):
        if len(shape) == 2:
            matrix(f"blk.{layer}.{name}", *shape)
        else:
            vector(f"blk.{layer}.{name}", *shape, mean=0.0 if name.endswith("bias") else 1.0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(
    writer: gguf.GGUFWriter, vocab: int, chat_template: str | None, add_bos: bool
) -> None:
    tokenizer = make_tokenizer(min(vocab, 512))
    ids = tokenizer.get_vocab()
    tokens = sorted(ids, key=lambda token: ids[token])
    if len(tokens) > vocab:
        raise ValueError(f"vocab must be at least {len(tokens)}")
    types = [gguf.TokenType.CONTROL] * len(SPECIAL_TOKENS)
    types += [gguf.TokenType.NORMAL] * (len(tokens) - len(types))
    types += [gguf.TokenType.UNUSED] * (vocab - len(tokens))
    tokens += [f"<|unused{i}|>" for i in range(vocab - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(_merges(tokenizer))
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_pad_token_id(SPECIAL_TOKENS.index("<|pad|>"))
    writer.add_add_bos_token(add_bos)
    if chat_template is not None:
        writer.add_chat_template(chat_template)


def _merges(tokenizer: Tokenizer) -> list[str]:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def _quantize(data: np.ndarray, type_: gguf.GGMLQuantizationType) -> np.ndarray:
    if type_.name in ("F32", "F16", "BF16"):
        return gguf.quantize(data, type_)
    return quantize(data, GgmlType[type_.name])
