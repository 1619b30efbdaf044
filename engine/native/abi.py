"""The structures of src/model.h and src/many.h, field by field, as C's compiler lays them out."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p

ABI_VERSION = 2
"""Of all structures here, whose sizes alone don't tell whether their fields are those of the library."""

MOST_TOKENS, MOST_STRETCHES = 64, 64
"""Of one step, and of one row's context."""

DENSE_F32, DENSE_BF16 = 0, 1
PACKED = {"q4": 2, "q5": 3, "q8": 4, "q4_k": 5, "q5_k": 6, "q6_k": 7}
F32, BF16 = 0, 1


class Matrix(ctypes.Structure):
    _fields_ = (("kind", c_int32), ("rows", c_int32), ("columns", c_int32), ("data", c_void_p), ("bias", c_void_p))


class Layer(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("attention_norm", "mlp_norm", "q_norm", "k_norm")),
        *((name, Matrix) for name in ("q", "k", "v", "output", "gate", "up", "down")),
        *((name, c_void_p) for name in ("keys", "values")),
        ("scale", c_float),
        ("window", c_int32),
        ("rotates", c_int32),
        ("watched", c_int32),
    )


class Model(ctypes.Structure):
    _fields_ = (
        *((name, c_int32) for name in ("num_layers", "hidden", "inner", "heads", "kv_heads", "head_dim", "vocab")),
        *((name, c_int32) for name in ("kv_kind", "embedding_kind")),
        ("slots", c_int64),
        ("eps", c_float),
        *((name, c_void_p) for name in ("embedding", "norm", "cos", "sin")),
        ("head", Matrix),
        ("layers", ctypes.POINTER(Layer)),
    )


class Step(ctypes.Structure):
    _fields_ = (
        *((name, c_int32) for name in ("tokens", "rows", "wanted", "pieces")),
        *((name, c_void_p) for name in ("ids", "positions", "slots", "row", "run", "wanted_tokens", "logits", "piece")),
        ("notes", c_int32),
        *((name, c_void_p) for name in ("note", "read")),
    )


class Many(ctypes.Structure):
    _fields_ = (
        *((name, c_int32) for name in ("heads", "kv_heads", "tokens", "head_dim")),
        *((name, c_int32) for name in ("spans", "pieces", "position", "window", "pairs")),
        ("scale", c_float),
        *((name, c_int64) for name in ("slots", "query_stride")),
        *((name, c_void_p) for name in ("span", "keys", "values", "queries", "partners", "cos", "sin")),
        *((name, c_void_p) for name in ("mixed", "shares")),
    )


SIZES = (
    ABI_VERSION,
    MOST_TOKENS,
    MOST_STRETCHES,
    max(PACKED.values()),
    *(ctypes.sizeof(structure) for structure in (Matrix, Layer, Model, Step, Many)),
)
"""What `ctx_sizes` must say in a library that was built of the same sources."""
