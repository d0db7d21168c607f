"""Write GGUF files byte by byte, wrong ones too."""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_FORMATS = {
    U8: "B",
    I8: "b",
    U16: "H",
    I16: "h",
    U32: "I",
    I32: "i",
    F32: "f",
    BOOL: "B",
    U64: "Q",
    I64: "q",
    F64: "d",
}
# Type number: (elements, bytes) of a block, for the types used here.
_BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 8: (32, 34), 26: (1, 4)}


@dataclass
class Tensor:
    """`offset` None: after the tensor before; `offset` counts from the start of the data."""

    shape: tuple[int, ...]
    type: int = 0
    offset: int | None = None


@dataclass
class RawGguf:
    """Metadata as (type, value), an array's value as (item type, list).

    A value that is a bytearray is written as it is.
    """

    metadata: dict[str, tuple[int, Any]] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    magic: bytes = b"GGUF"
    version: int = 3
    num_tensors: int | None = None
    num_pairs: int | None = None
    more_pairs: list[tuple[str, tuple[int, Any]]] = field(default_factory=list)
    more_tensors: list[tuple[str, Tensor]] = field(default_factory=list)
    alignment: int = 32

    def encode(self) -> bytes:
        pairs = [*self.metadata.items(), *self.more_pairs]
        tensors = [*self.tensors.items(), *self.more_tensors]
        out = bytearray(self.magic)
        out += struct.pack("<I", self.version)
        out += struct.pack("<Q", len(tensors) if self.num_tensors is None else self.num_tensors)
        out += struct.pack("<Q", len(pairs) if self.num_pairs is None else self.num_pairs)
        for key, (kind, value) in pairs:
            out += _string(key) + struct.pack("<I", kind) + _value(kind, value)
        end = 0
        for name, tensor in tensors:
            offset = end if tensor.offset is None else tensor.offset
            out += _string(name) + struct.pack("<I", len(tensor.shape))
            out += struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape)
            out += struct.pack("<IQ", tensor.type, offset)
            if tensor.offset is None:
                end = -(-(end + _nbytes(tensor)) // self.alignment) * self.alignment
        out += bytes(-len(out) % self.alignment)
        # Small finite floats whatever the type.
        return bytes(out) + bytes([0, 0, 1, 0] * (end // 4))

    def write(self, path: Path) -> Path:
        path.write_bytes(self.encode())
        return path


def llama_draft() -> RawGguf:
    """A valid model with one layer and four tokens."""
    hidden, ff, head_dim, vocab = 32, 64, 16, 4
    metadata: dict[str, tuple[int, Any]] = {
        "general.architecture": (STRING, "llama"),
        "llama.block_count": (U32, 1),
        "llama.context_length": (U32, 64),
        "llama.embedding_length": (U32, hidden),
        "llama.feed_forward_length": (U32, ff),
        "llama.attention.head_count": (U32, 2),
        "llama.attention.head_count_kv": (U32, 1),
        "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
        "tokenizer.ggml.model": (STRING, "gpt2"),
        "tokenizer.ggml.pre": (STRING, "gpt-2"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, ["a", "b", "ab", "é"])),
        "tokenizer.ggml.token_type": (ARRAY, (I32, [1, 1, 1, 1])),
        "tokenizer.ggml.merges": (ARRAY, (STRING, ["a b"])),
        "tokenizer.ggml.bos_token_id": (U32, 0),
        "tokenizer.ggml.eos_token_id": (U32, 3),
        "tokenizer.ggml.add_bos_token": (BOOL, 1),
    }
    shapes = {
        "token_embd": (hidden, vocab),
        "output_norm": (hidden,),
        "blk.0.attn_norm": (hidden,),
        "blk.0.attn_q": (hidden, 2 * head_dim),
        "blk.0.attn_k": (hidden, head_dim),
        "blk.0.attn_v": (hidden, head_dim),
        "blk.0.attn_output": (2 * head_dim, hidden),
        "blk.0.ffn_norm": (hidden,),
        "blk.0.ffn_gate": (hidden, ff),
        "blk.0.ffn_up": (hidden, ff),
        "blk.0.ffn_down": (ff, hidden),
    }
    tensors = {
        f"{name}.weight": Tensor(shape, 0 if len(shape) == 1 else 8)
        for name, shape in shapes.items()
    }
    return RawGguf(metadata, tensors)


def sentencepiece_draft() -> RawGguf:
    """The same model with a SentencePiece vocabulary: three special tokens and all bytes."""
    draft = llama_draft()
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁a"]
    types = [2, 3, 3] + [6] * 256 + [1]
    del draft.metadata["tokenizer.ggml.pre"], draft.metadata["tokenizer.ggml.merges"]
    draft.metadata |= {
        "tokenizer.ggml.model": (STRING, "llama"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)),
        "tokenizer.ggml.token_type": (ARRAY, (I32, types)),
        "tokenizer.ggml.scores": (ARRAY, (F32, [0.0] * len(tokens))),
    }
    draft.tensors["token_embd.weight"].shape = (32, len(tokens))
    return draft


def header_size(data: bytes) -> int:
    """Up to the tensors' data, which nothing but the file's size depends on."""
    return data.rindex(b"ffn_down.weight") + 60


def _string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def _value(kind: int, value: Any) -> bytes:
    if isinstance(value, bytearray):
        return bytes(value)
    if kind == STRING:
        return _string(value)
    if kind == ARRAY:
        item, items = value
        head = struct.pack("<IQ", item, len(items))
        return head + b"".join(_value(item, entry) for entry in items)
    return struct.pack("<" + _FORMATS[kind], value)


def _nbytes(tensor: Tensor) -> int:
    block, nbytes = _BLOCKS[tensor.type]
    elements = 1
    for size in tensor.shape:
        elements *= size
    return elements // block * nbytes
