"""The ggml functions pliant calls, with their C prototypes.

Tensors, contexts, graphs, buffers and backends travel as plain addresses (`int`); the owner
classes of this package wrap them. `bind` sets argument and result types once per process.
"""

import ctypes
from functools import cache
from types import SimpleNamespace
from typing import Any

from pliant.ggml import library

MAX_DIMS = 4

_P = ctypes.c_void_p
_INT = ctypes.c_int
_I64 = ctypes.c_int64
_SIZE = ctypes.c_size_t
_F32 = ctypes.c_float
_BOOL = ctypes.c_bool
_STR = ctypes.c_char_p


class InitParams(ctypes.Structure):
    """struct ggml_init_params"""

    _fields_ = [("mem_size", _SIZE), ("mem_buffer", _P), ("no_alloc", _BOOL)]


class TensorStruct(ctypes.Structure):
    """struct ggml_tensor, up to `data`, `name` and `extra`"""

    _fields_ = [
        ("type", _INT),
        ("buffer", _P),
        ("ne", _I64 * MAX_DIMS),
        ("nb", _SIZE * MAX_DIMS),
        ("op", _INT),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", _P * 10),
        ("view_src", _P),
        ("view_offs", _SIZE),
        ("data", _P),
        ("name", ctypes.c_char * 64),
        ("extra", _P),
        ("padding", ctypes.c_char * 8),
    ]


# name: (result, arguments); each line's comment is the C prototype.
BASE: dict[str, tuple[Any, list[Any]]] = {
    # struct ggml_context * ggml_init(struct ggml_init_params params)
    "ggml_init": (_P, [InitParams]),
    # void ggml_free(struct ggml_context * ctx)
    "ggml_free": (None, [_P]),
    # size_t ggml_tensor_overhead(void)
    "ggml_tensor_overhead": (_SIZE, []),
    # size_t ggml_graph_overhead_custom(size_t size, bool grads)
    "ggml_graph_overhead_custom": (_SIZE, [_SIZE, _BOOL]),
    # int64_t ggml_blck_size(enum ggml_type type)
    "ggml_blck_size": (_I64, [_INT]),
    # size_t ggml_type_size(enum ggml_type type)
    "ggml_type_size": (_SIZE, [_INT]),
    # size_t ggml_quantize_chunk(enum ggml_type type, const float * src, void * dst,
    #     int64_t start, int64_t nrows, int64_t n_per_row, const float * imatrix)
    "ggml_quantize_chunk": (_SIZE, [_INT, _P, _P, _I64, _I64, _I64, _P]),
    # const struct ggml_type_traits * ggml_get_type_traits(enum ggml_type type)
    "ggml_get_type_traits": (_P, [_INT]),
    # bool ggml_quantize_requires_imatrix(enum ggml_type type)
    "ggml_quantize_requires_imatrix": (_BOOL, [_INT]),
    # struct ggml_tensor * ggml_new_tensor(struct ggml_context * ctx, enum ggml_type type,
    #     int n_dims, const int64_t * ne)
    "ggml_new_tensor": (_P, [_P, _INT, _INT, ctypes.POINTER(_I64)]),
    # struct ggml_tensor * ggml_view_4d(struct ggml_context * ctx, struct ggml_tensor * a,
    #     int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3,
    #     size_t nb1, size_t nb2, size_t nb3, size_t offset)
    "ggml_view_4d": (_P, [_P, _P, _I64, _I64, _I64, _I64, _SIZE, _SIZE, _SIZE, _SIZE]),
    # struct ggml_tensor * ggml_reshape_4d(struct ggml_context * ctx, struct ggml_tensor * a,
    #     int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3)
    "ggml_reshape_4d": (_P, [_P, _P, _I64, _I64, _I64, _I64]),
    # struct ggml_tensor * ggml_permute(struct ggml_context * ctx, struct ggml_tensor * a,
    #     int axis0, int axis1, int axis2, int axis3)
    "ggml_permute": (_P, [_P, _P, _INT, _INT, _INT, _INT]),
    # struct ggml_tensor * ggml_cont(struct ggml_context * ctx, struct ggml_tensor * a)
    "ggml_cont": (_P, [_P, _P]),
    # struct ggml_tensor * ggml_concat(struct ggml_context * ctx, struct ggml_tensor * a,
    #     struct ggml_tensor * b, int dim)
    "ggml_concat": (_P, [_P, _P, _P, _INT]),
    # struct ggml_tensor * ggml_mul_mat(struct ggml_context * ctx, struct ggml_tensor * a,
    #     struct ggml_tensor * b)
    "ggml_mul_mat": (_P, [_P, _P, _P]),
    # struct ggml_tensor * ggml_out_prod(struct ggml_context * ctx, struct ggml_tensor * a,
    #     struct ggml_tensor * b)
    "ggml_out_prod": (_P, [_P, _P, _P]),
    # struct ggml_tensor * ggml_add(struct ggml_context * ctx, struct ggml_tensor * a,
    #     struct ggml_tensor * b)
    "ggml_add": (_P, [_P, _P, _P]),
    # struct ggml_tensor * ggml_mul(struct ggml_context * ctx, struct ggml_tensor * a,
    #     struct ggml_tensor * b)
    "ggml_mul": (_P, [_P, _P, _P]),
    # struct ggml_tensor * ggml_norm(struct ggml_context * ctx, struct ggml_tensor * a, float eps)
    "ggml_norm": (_P, [_P, _P, _F32]),
    # struct ggml_tensor * ggml_rms_norm(struct ggml_context * ctx, struct ggml_tensor * a,
    #     float eps)
    "ggml_rms_norm": (_P, [_P, _P, _F32]),
    # struct ggml_tensor * ggml_swiglu_split(struct ggml_context * ctx, struct ggml_tensor * a,
    #     struct ggml_tensor * b)
    "ggml_swiglu_split": (_P, [_P, _P, _P]),
    # struct ggml_tensor * ggml_geglu_split(struct ggml_context * ctx, struct ggml_tensor * a,
    #     struct ggml_tensor * b)
    "ggml_geglu_split": (_P, [_P, _P, _P]),
    # struct ggml_tensor * ggml_scale(struct ggml_context * ctx, struct ggml_tensor * a, float s)
    "ggml_scale": (_P, [_P, _P, _F32]),
    # struct ggml_tensor * ggml_tanh(struct ggml_context * ctx, struct ggml_tensor * a)
    "ggml_tanh": (_P, [_P, _P]),
    # struct ggml_tensor * ggml_relu(struct ggml_context * ctx, struct ggml_tensor * a)
    "ggml_relu": (_P, [_P, _P]),
    # struct ggml_tensor * ggml_gelu_erf(struct ggml_context * ctx, struct ggml_tensor * a)
    "ggml_gelu_erf": (_P, [_P, _P]),
    # struct ggml_tensor * ggml_soft_max_ext(struct ggml_context * ctx, struct ggml_tensor * a,
    #     struct ggml_tensor * mask, float scale, float max_bias)
    "ggml_soft_max_ext": (_P, [_P, _P, _P, _F32, _F32]),
    # struct ggml_tensor * ggml_get_rows(struct ggml_context * ctx, struct ggml_tensor * a,
    #     struct ggml_tensor * b)
    "ggml_get_rows": (_P, [_P, _P, _P]),
    # struct ggml_tensor * ggml_set_rows(struct ggml_context * ctx, struct ggml_tensor * a,
    #     struct ggml_tensor * b, struct ggml_tensor * c)
    "ggml_set_rows": (_P, [_P, _P, _P, _P]),
    # struct ggml_tensor * ggml_rope_ext(struct ggml_context * ctx, struct ggml_tensor * a,
    #     struct ggml_tensor * b, struct ggml_tensor * c, int n_dims, int mode, int n_ctx_orig,
    #     float freq_base, float freq_scale, float ext_factor, float attn_factor,
    #     float beta_fast, float beta_slow)
    "ggml_rope_ext": (_P, [_P, _P, _P, _P, _INT, _INT, _INT, *[_F32] * 6]),
    # struct ggml_tensor * ggml_flash_attn_ext(struct ggml_context * ctx, struct ggml_tensor * q,
    #     struct ggml_tensor * k, struct ggml_tensor * v, struct ggml_tensor * mask,
    #     float scale, float max_bias, float logit_softcap)
    "ggml_flash_attn_ext": (_P, [_P, _P, _P, _P, _P, _F32, _F32, _F32]),
    # struct ggml_tensor * ggml_get_first_tensor(const struct ggml_context * ctx)
    "ggml_get_first_tensor": (_P, [_P]),
    # struct ggml_tensor * ggml_get_next_tensor(const struct ggml_context * ctx,
    #     struct ggml_tensor * tensor)
    "ggml_get_next_tensor": (_P, [_P, _P]),
    # struct ggml_cgraph * ggml_new_graph_custom(struct ggml_context * ctx, size_t size, bool grads)
    "ggml_new_graph_custom": (_P, [_P, _SIZE, _BOOL]),
    # void ggml_build_forward_expand(struct ggml_cgraph * cgraph, struct ggml_tensor * tensor)
    "ggml_build_forward_expand": (None, [_P, _P]),
    # int ggml_graph_n_nodes(struct ggml_cgraph * cgraph)
    "ggml_graph_n_nodes": (_INT, [_P]),
    # ggml_gallocr_t ggml_gallocr_new(ggml_backend_buffer_type_t buft)
    "ggml_gallocr_new": (_P, [_P]),
    # void ggml_gallocr_free(ggml_gallocr_t galloc)
    "ggml_gallocr_free": (None, [_P]),
    # bool ggml_gallocr_alloc_graph(ggml_gallocr_t galloc, struct ggml_cgraph * graph)
    "ggml_gallocr_alloc_graph": (_BOOL, [_P, _P]),
    # size_t ggml_gallocr_get_buffer_size(ggml_gallocr_t galloc, int buffer_id)
    "ggml_gallocr_get_buffer_size": (_SIZE, [_P, _INT]),
    # enum ggml_status ggml_backend_graph_compute(ggml_backend_t backend,
    #     struct ggml_cgraph * cgraph)
    "ggml_backend_graph_compute": (_INT, [_P, _P]),
    # void ggml_backend_free(ggml_backend_t backend)
    "ggml_backend_free": (None, [_P]),
    # enum ggml_status ggml_backend_tensor_alloc(ggml_backend_buffer_t buffer,
    #     struct ggml_tensor * tensor, void * addr)
    "ggml_backend_tensor_alloc": (_INT, [_P, _P, _P]),
    # void ggml_backend_tensor_set(struct ggml_tensor * tensor, const void * data,
    #     size_t offset, size_t size)
    "ggml_backend_tensor_set": (None, [_P, _P, _SIZE, _SIZE]),
    # ggml_backend_buffer_t ggml_backend_cpu_buffer_from_ptr(void * ptr, size_t size)
    "ggml_backend_cpu_buffer_from_ptr": (_P, [_P, _SIZE]),
    # ggml_backend_buffer_type_t ggml_backend_cpu_buffer_type(void)
    "ggml_backend_cpu_buffer_type": (_P, []),
    # ggml_backend_buffer_t ggml_backend_buft_alloc_buffer(ggml_backend_buffer_type_t buft,
    #     size_t size)
    "ggml_backend_buft_alloc_buffer": (_P, [_P, _SIZE]),
    # const char * ggml_backend_buft_name(ggml_backend_buffer_type_t buft)
    "ggml_backend_buft_name": (_STR, [_P]),
    # size_t ggml_backend_buft_get_alloc_size(ggml_backend_buffer_type_t buft,
    #     const struct ggml_tensor * tensor)
    "ggml_backend_buft_get_alloc_size": (_SIZE, [_P, _P]),
    # void ggml_backend_buffer_free(ggml_backend_buffer_t buffer)
    "ggml_backend_buffer_free": (None, [_P]),
    # void * ggml_backend_buffer_get_base(ggml_backend_buffer_t buffer)
    "ggml_backend_buffer_get_base": (_P, [_P]),
    # void * ggml_backend_reg_get_proc_address(ggml_backend_reg_t reg, const char * name)
    "ggml_backend_reg_get_proc_address": (_P, [_P, _STR]),
    # ggml_backend_dev_t ggml_backend_reg_dev_get(ggml_backend_reg_t reg, size_t index)
    "ggml_backend_reg_dev_get": (_P, [_P, _SIZE]),
}

CPU: dict[str, tuple[Any, list[Any]]] = {
    # ggml_backend_t ggml_backend_cpu_init(void)
    "ggml_backend_cpu_init": (_P, []),
    # void ggml_backend_cpu_set_n_threads(ggml_backend_t backend_cpu, int n_threads)
    "ggml_backend_cpu_set_n_threads": (None, [_P, _INT]),
    # ggml_backend_reg_t ggml_backend_cpu_reg(void)
    "ggml_backend_cpu_reg": (_P, []),
}


@cache
def bind() -> SimpleNamespace:
    """The functions above with their types set, as attributes without the `ggml_` prefix.

    Raises LibraryError if the library cannot be loaded.
    """
    libraries = library.load()
    functions = {}
    for source, table in ((libraries.base, BASE), (libraries.cpu, CPU)):
        for name, (result, arguments) in table.items():
            function = getattr(source, name)
            function.restype = result
            function.argtypes = arguments
            functions[name.removeprefix("ggml_")] = function
    return SimpleNamespace(**functions)
