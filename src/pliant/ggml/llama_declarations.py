"""The llama.cpp functions pliant calls (vocabulary and samplers), with their C prototypes."""

import ctypes
from functools import cache
from types import SimpleNamespace
from typing import Any

from pliant.errors import LibraryError
from pliant.ggml import library

_P = ctypes.c_void_p
_I32 = ctypes.c_int32
_U32 = ctypes.c_uint32
_F32 = ctypes.c_float
_SIZE = ctypes.c_size_t
_BOOL = ctypes.c_bool
_STR = ctypes.c_char_p

LOAD_MODE_MMAP = 1
NO_TOKEN = -1


class ModelParams(ctypes.Structure):
    """struct llama_model_params, passed by value.

    `guard` is ours: a library whose struct is longer writes there instead of over the stack.
    """

    _fields_ = [
        ("devices", _P),
        ("tensor_buft_overrides", _P),
        ("n_gpu_layers", _I32),
        ("split_mode", ctypes.c_int),
        ("load_mode", ctypes.c_int),
        ("lazy_mode", ctypes.c_int),
        ("main_gpu", _I32),
        ("tensor_split", _P),
        ("progress_callback", _P),
        ("progress_callback_user_data", _P),
        ("kv_overrides", _P),
        ("vocab_only", ctypes.c_uint8),
        ("check_tensors", ctypes.c_uint8),
        ("use_extra_bufts", ctypes.c_uint8),
        ("no_host", ctypes.c_uint8),
        ("no_alloc", ctypes.c_uint8),
        ("load_mtp", ctypes.c_uint8),
        ("guard", ctypes.c_uint8 * 128),
    ]


# What llama_model_default_params sets in every supported version; another layout would show.
_MODEL_DEFAULTS = {
    "devices": None,
    "tensor_buft_overrides": None,
    "n_gpu_layers": -1,
    "split_mode": 1,
    "load_mode": -1,
    "lazy_mode": 1,
    "main_gpu": 0,
    "tensor_split": None,
    "progress_callback": None,
    "progress_callback_user_data": None,
    "kv_overrides": None,
    "vocab_only": 0,
    "check_tensors": 0,
    "use_extra_bufts": 1,
    "no_host": 0,
    "no_alloc": 0,
    "load_mtp": 0,
}


class ChainParams(ctypes.Structure):
    """struct llama_sampler_chain_params, passed by value"""

    _fields_ = [("no_perf", _BOOL)]


class LogitBias(ctypes.Structure):
    """struct llama_logit_bias"""

    _fields_ = [("token", _I32), ("bias", _F32)]


class TokenData(ctypes.Structure):
    """struct llama_token_data"""

    _fields_ = [("id", _I32), ("logit", _F32), ("p", _F32)]


class TokenDataArray(ctypes.Structure):
    """struct llama_token_data_array"""

    _fields_ = [
        ("data", ctypes.POINTER(TokenData)),
        ("size", _SIZE),
        ("selected", ctypes.c_int64),
        ("sorted", _BOOL),
    ]


_ARRAY = ctypes.POINTER(TokenDataArray)

# name: (result, arguments); each line's comment is the C prototype.
_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    # void llama_backend_init(void)
    "llama_backend_init": (None, []),
    # struct llama_model_params llama_model_default_params(void)
    "llama_model_default_params": (ModelParams, []),
    # struct llama_model * llama_model_load_from_file(
    #     const char * path_model, struct llama_model_params params)
    "llama_model_load_from_file": (_P, [_STR, ModelParams]),
    # void llama_model_free(struct llama_model * model)
    "llama_model_free": (None, [_P]),
    # const struct llama_vocab * llama_model_get_vocab(const struct llama_model * model)
    "llama_model_get_vocab": (_P, [_P]),
    # int32_t llama_vocab_n_tokens(const struct llama_vocab * vocab)
    "llama_vocab_n_tokens": (_I32, [_P]),
    # enum llama_vocab_type llama_vocab_type(const struct llama_vocab * vocab)
    "llama_vocab_type": (ctypes.c_int, [_P]),
    # const char * llama_vocab_get_text(const struct llama_vocab * vocab, llama_token token)
    "llama_vocab_get_text": (_STR, [_P, _I32]),
    # enum llama_token_attr llama_vocab_get_attr(
    #     const struct llama_vocab * vocab, llama_token token)
    "llama_vocab_get_attr": (ctypes.c_int, [_P, _I32]),
    # bool llama_vocab_is_eog(const struct llama_vocab * vocab, llama_token token)
    "llama_vocab_is_eog": (_BOOL, [_P, _I32]),
    # llama_token llama_vocab_bos(const struct llama_vocab * vocab)
    "llama_vocab_bos": (_I32, [_P]),
    # llama_token llama_vocab_eos(const struct llama_vocab * vocab)
    "llama_vocab_eos": (_I32, [_P]),
    # llama_token llama_vocab_eot(const struct llama_vocab * vocab)
    "llama_vocab_eot": (_I32, [_P]),
    # bool llama_vocab_get_add_bos(const struct llama_vocab * vocab)
    "llama_vocab_get_add_bos": (_BOOL, [_P]),
    # int32_t llama_tokenize(const struct llama_vocab * vocab, const char * text,
    #     int32_t text_len, llama_token * tokens, int32_t n_tokens_max,
    #     bool add_special, bool parse_special)
    "llama_tokenize": (_I32, [_P, _STR, _I32, ctypes.POINTER(_I32), _I32, _BOOL, _BOOL]),
    # int32_t llama_token_to_piece(const struct llama_vocab * vocab, llama_token token,
    #     char * buf, int32_t length, int32_t lstrip, bool special)
    "llama_token_to_piece": (_I32, [_P, _I32, _STR, _I32, _I32, _BOOL]),
    # int32_t llama_detokenize(const struct llama_vocab * vocab, const llama_token * tokens,
    #     int32_t n_tokens, char * text, int32_t text_len_max,
    #     bool remove_special, bool unparse_special)
    "llama_detokenize": (_I32, [_P, ctypes.POINTER(_I32), _I32, _STR, _I32, _BOOL, _BOOL]),
    # struct llama_sampler * llama_sampler_chain_init(struct llama_sampler_chain_params params)
    "llama_sampler_chain_init": (_P, [ChainParams]),
    # void llama_sampler_chain_add(struct llama_sampler * chain, struct llama_sampler * smpl)
    "llama_sampler_chain_add": (None, [_P, _P]),
    # void llama_sampler_accept(struct llama_sampler * smpl, llama_token token)
    "llama_sampler_accept": (None, [_P, _I32]),
    # void llama_sampler_apply(struct llama_sampler * smpl, llama_token_data_array * cur_p)
    "llama_sampler_apply": (None, [_P, _ARRAY]),
    # void llama_sampler_free(struct llama_sampler * smpl)
    "llama_sampler_free": (None, [_P]),
    # struct llama_sampler * llama_sampler_init_greedy(void)
    "llama_sampler_init_greedy": (_P, []),
    # struct llama_sampler * llama_sampler_init_dist(uint32_t seed)
    "llama_sampler_init_dist": (_P, [_U32]),
    # struct llama_sampler * llama_sampler_init_top_k(int32_t k)
    "llama_sampler_init_top_k": (_P, [_I32]),
    # struct llama_sampler * llama_sampler_init_top_p(float p, size_t min_keep)
    "llama_sampler_init_top_p": (_P, [_F32, _SIZE]),
    # struct llama_sampler * llama_sampler_init_min_p(float p, size_t min_keep)
    "llama_sampler_init_min_p": (_P, [_F32, _SIZE]),
    # struct llama_sampler * llama_sampler_init_temp(float t)
    "llama_sampler_init_temp": (_P, [_F32]),
    # struct llama_sampler * llama_sampler_init_penalties(int32_t n_vocab,
    #     int32_t penalty_last_n, float penalty_repeat, float penalty_freq,
    #     float penalty_present)
    "llama_sampler_init_penalties": (_P, [_I32, _I32, _F32, _F32, _F32]),
    # struct llama_sampler * llama_sampler_init_logit_bias(int32_t n_vocab,
    #     int32_t n_logit_bias, const llama_logit_bias * logit_bias)
    "llama_sampler_init_logit_bias": (_P, [_I32, _I32, ctypes.POINTER(LogitBias)]),
    # struct llama_sampler * llama_sampler_init_grammar(const struct llama_vocab * vocab,
    #     const char * grammar_str, const char * grammar_root)
    "llama_sampler_init_grammar": (_P, [_P, _STR, _STR]),
}


@cache
def bind() -> SimpleNamespace:
    """The declared functions, by name without `llama_`; bound once per process.

    Raises LibraryError if one is missing or the parameter struct has another layout.
    """
    llama = library.load().llama
    functions = SimpleNamespace()
    for name, (result, arguments) in _PROTOTYPES.items():
        try:
            function = getattr(llama, name)
        except AttributeError:
            raise LibraryError(
                f"llama.cpp's library has no {name}; reinstall llama-cpp-python"
            ) from None
        function.restype = result
        function.argtypes = arguments
        setattr(functions, name.removeprefix("llama_"), function)
    check_model_params(functions.model_default_params())
    functions.backend_init()
    return functions


def check_model_params(params: ModelParams) -> None:
    """Raise LibraryError unless `params` holds the defaults where we believe each field to be."""
    for field, expected in _MODEL_DEFAULTS.items():
        found = getattr(params, field)
        if found != expected:
            raise LibraryError(
                f"llama.cpp's llama_model_params has another layout than pliant knows "
                f"({field} is {found}, not {expected}); "
                "run: pip install 'llama-cpp-python>=0.3.36,<0.4'"
            )
