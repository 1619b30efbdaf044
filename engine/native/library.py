"""Finds the compiled library that fits this processor. Without one, the engine does all in torch."""

from __future__ import annotations

import ctypes
import logging
import platform
from functools import cache
from pathlib import Path

import torch

from engine.native.abi import SIZES, Matrix, Model, Step

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent


@cache
def load_library() -> ctypes.CDLL | None:
    """The library for the best instructions this processor has; None if none was built that it can run."""
    return next((library for level in levels() if (library := load_level(level)) is not None), None)


def load_level(level: str) -> ctypes.CDLL | None:
    """The library for these instructions; None if it was not built, or of other sources."""
    path = FOLDER / f"ctx_native-{level}.so"
    if not path.is_file():
        return None
    library = ctypes.CDLL(str(path))
    if not is_current(library):
        logger.warning("%s is of another version: install ctx-lsp anew; until then steps are computed in torch", path)
        return None
    return _declared(library)


def is_current(library: ctypes.CDLL) -> bool:
    """Whether it has the structures that `abi` has."""
    try:
        return tuple((ctypes.c_int32 * len(SIZES)).in_dll(library, "ctx_sizes")) == SIZES
    except ValueError:
        return False


def levels() -> list[str]:
    """Names of the instruction sets that this processor has, the best first; see setup.py."""
    machine = platform.machine()
    if machine in ("x86_64", "AMD64"):
        cpu = torch.cpu
        vnni = cpu._is_vnni_supported()
        has = {
            "-avx512bf16": vnni and cpu._is_avx512_bf16_supported(),
            "-avx512vnni": vnni,
            "-avx2": cpu._is_avx2_supported(),
            "": True,
        }
        return [f"x86_64{name}" for name, there in has.items() if there]
    return [machine]


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    library.ctx_stepper_new.argtypes = (ctypes.POINTER(Model), ctypes.c_int)
    library.ctx_stepper_new.restype = ctypes.c_void_p
    library.ctx_stepper_free.argtypes = (ctypes.c_void_p,)
    library.ctx_stepper_free.restype = None
    library.ctx_step.argtypes = (ctypes.c_void_p, ctypes.POINTER(Step), ctypes.c_int)
    library.ctx_step.restype = ctypes.c_double
    library.ctx_multiply.argtypes = (ctypes.POINTER(Matrix), ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    library.ctx_multiply.restype = ctypes.c_int
    return library
