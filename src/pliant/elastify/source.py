"""The Hugging Face folder that is made elastic: its shape, its weights and its tokenizer.

Everything that pliant cannot carry over exactly is refused here, by name, before any work.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from pliant.bundle.family import Family
from pliant.elastify.checkpoint import StoredTensor, check_shapes, read_tensors
from pliant.elastify.families import SourceFamily, head_size, refuse_unsupported, source_family
from pliant.elastify.fused import split_fused
from pliant.elastify.precision import widen
from pliant.elastify.rope import RopeScaling, read_rope
from pliant.errors import ElastifyError
from pliant.ggml.cpu import cpu_features

Dtype = Literal["f32", "bf16"]
DtypeChoice = Literal["auto", "f32", "bf16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
_TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class SourceConfig:
    """The sizes of a decoder, uniform over its layers.

    `sliding_window` is in tokens, for families in which some layers see no more than that.
    """

    model_type: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ff: int
    vocab_size: int
    context_length: int
    rms_eps: float
    rope_base: float
    rope_dim: int
    rope_scaling: RopeScaling | None
    tied_embeddings: bool
    sliding_rope_base: float | None = None
    sliding_window: int | None = None
    attention_softcap: float | None = None
    final_softcap: float | None = None

    @property
    def source(self) -> SourceFamily:
        return source_family(self.model_type)

    @property
    def family(self) -> Family:
        return self.source.family

    @property
    def heads_per_kv(self) -> int:
        return self.num_heads // self.num_kv_heads


def read_config(folder: Path) -> SourceConfig:
    """Reads and checks `config.json`; raises ElastifyError naming what is not supported."""
    raw = read_json(folder / "config.json")
    source_family(raw.get("model_type"))
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises its own validation classes, which vary
        what = " ".join(str(error).split())
        raise ElastifyError(f"{folder / 'config.json'} is not understood: {what}") from error
    return config_of(config)


def config_of(config: Any) -> SourceConfig:
    """The same from a loaded transformers config."""
    refuse_unsupported(config)
    rope = read_rope(config)
    slides = source_family(config.model_type).family.sliding_interval > 0
    return SourceConfig(
        model_type=config.model_type,
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=head_size(config),
        ff=config.intermediate_size,
        vocab_size=config.vocab_size,
        context_length=_context_length(config, slides),
        rms_eps=float(config.rms_norm_eps),
        rope_base=rope.base,
        rope_dim=rope.dims,
        rope_scaling=rope.scaling,
        tied_embeddings=bool(config.tie_word_embeddings),
        sliding_rope_base=rope.sliding_base,
        sliding_window=int(config.sliding_window) if slides else None,
        attention_softcap=getattr(config, "attn_logit_softcapping", None),
        final_softcap=getattr(config, "final_logit_softcapping", None),
    )


def _context_length(config: Any, slides: bool) -> int:
    """Within one window, sliding and full attention are the same thing: what llama.cpp does not
    run with a window is limited to that."""
    length, window = int(config.max_position_embeddings), getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None) or ["sliding_attention"]
    if slides or not window or "sliding_attention" not in types:
        return length
    return min(length, int(window))


def read_weights(folder: Path) -> dict[str, StoredTensor]:
    """The folder's tensors, checked against config.json; no weight is read yet.

    Raises ElastifyError naming file and tensor of what is missing, damaged or of another shape.
    """
    tensors = read_tensors(folder)
    model = empty_model(folder)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    # One of the tied matrices is enough.
    tied = model._tied_weights_keys or () if model.config.tie_word_embeddings else ()
    check_shapes(tensors, shapes, frozenset(tied))
    return tensors


def empty_model(folder: Path) -> Any:
    """The model that config.json describes, without memory for its weights (device "meta")."""
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


def load_model(folder: Path, dtype: Dtype = "f32", device: str = "cpu") -> Any:
    """The model in eval mode, on `device` (as torch names it).

    With "f32" weights stay as they are stored and products are computed in float32; "bf16" stores
    and computes in bfloat16. On a CPU weights are mapped from the files until they are changed.
    Raises ElastifyError as `read_weights` does.
    """
    stored = _TORCH_DTYPES[_common_dtype(read_weights(folder))]
    try:
        with _no_bars_of_transformers():
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=stored if dtype == "f32" else torch.bfloat16,
                local_files_only=True,
                use_safetensors=True,
            )
    except Exception as error:  # safetensors and transformers have no common error class
        raise ElastifyError(f"the weights in {folder} cannot be read: {error}") from error
    _check_tied(model, folder)
    model = split_fused(model.eval())
    if dtype == "f32":
        widen(model)
    return model.to(device)


def choose_dtype(name: DtypeChoice, tensors: Mapping[str, StoredTensor], device: str) -> Dtype:
    """What to compute in; "auto" is bfloat16 for weights stored so, where the hardware has it."""
    if name != "auto":
        return name
    has_it = {
        "cuda": torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        "cpu": "avx512_bf16" in cpu_features(),
    }
    is_stored_so = _common_dtype(tensors) == "BF16"
    return "bf16" if is_stored_so and has_it.get(device, False) else "f32"


def choose_device(name: Device) -> str:
    """torch's name of the device; raises ElastifyError if it is not there."""
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return next(device for device, is_there in present.items() if is_there)
    if not present.get(name):
        there = ", ".join(device for device, is_there in present.items() if is_there)
        raise ElastifyError(f"there is no device {name!r} here (there is {there})")
    return name


def _check_tied(model: Any, folder: Path) -> None:
    """transformers keeps two matrices that differ, whatever the configuration says."""
    matrices = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if model.config.tie_word_embeddings and matrices[0] is not matrices[1]:
        raise ElastifyError(
            f"{folder / 'config.json'} ties the output matrix to the embeddings, but the weights "
            "hold a lm_head.weight that differs: set tie_word_embeddings to false"
        )


@contextmanager
def _no_bars_of_transformers() -> Iterator[None]:
    """Mapping files takes no time, and stderr is for what does."""
    logging = transformers.utils.logging
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _common_dtype(tensors: Mapping[str, StoredTensor]) -> str:
    """The type that most bytes are stored in."""
    totals = Counter[str]()
    for tensor in tensors.values():
        totals[tensor.dtype] += tensor.nbytes
    return totals.most_common(1)[0][0]


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of the folder; raises ElastifyError if there is none."""
    # The classes that tokenizer_config.json names replace parts of tokenizer.json by their own
    # (GPT2Tokenizer drops SmolLM2's splitting of digits), so the file is taken as it is.
    if (folder / "tokenizer.json").exists():
        loader = transformers.PreTrainedTokenizerFast
    elif (folder / "tokenizer.model").exists():
        loader = transformers.AutoTokenizer
    else:
        raise ElastifyError(f"{folder} has no tokenizer (tokenizer.json or tokenizer.model)")
    try:
        return loader.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # missing sentencepiece, malformed JSON and others
        raise ElastifyError(f"the tokenizer in {folder} cannot be read: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model folder; raises ElastifyError if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ElastifyError(f"{path} is missing: not a Hugging Face model folder") from error
    except (OSError, ValueError) as error:
        raise ElastifyError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ElastifyError(f"{path} is not a JSON object")
    return content
