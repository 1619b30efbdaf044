"""Which device and dtype to compute on, and how much KV it has room for."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import distributed

from engine.config import EngineConfig
from engine.errors import InvalidRequestError
from engine.kv.pool import SCALED_DTYPES

_CPU_SHARE = 0.25
_CPU_MOST = 2 << 30
_CUDA_SHARE = 0.85


def choose_device(config: EngineConfig) -> torch.device:
    """The device `config.device` names, or for ``auto`` CUDA where there is one, else the CPU.

    Raises:
        InvalidRequestError: no such device here.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidRequestError(f"The device {name!r} can't be used here: {str(error).splitlines()[0]}") from error
    return device


def choose_devices(config: EngineConfig) -> list[torch.device]:
    """The device of each rank: one as `choose_device` says, or the first so many GPUs.

    Raises:
        InvalidRequestError: no such device here, or too few of them.
    """
    device, size = choose_device(config), config.tensor_parallel_size
    if size == 1 or device.type != "cuda":
        return [device] * size
    if device.index is not None:
        raise InvalidRequestError(
            f"tensor_parallel_size {size} takes the first {size} GPUs, not {config.device}: set device to cuda, and "
            "CUDA_VISIBLE_DEVICES to those that it shall take"
        )
    if not (distributed.is_available() and distributed.is_nccl_available()):
        raise InvalidRequestError(f"tensor_parallel_size {size} needs NCCL, and this build of torch lacks it")
    if (found := torch.cuda.device_count()) < size:
        raise InvalidRequestError(f"tensor_parallel_size {size} needs as many GPUs; here are {found}")
    return [torch.device("cuda", rank) for rank in range(size)]


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the current one of this thread, which is where kernels are launched."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def choose_dtype(config: EngineConfig, device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively; float32 elsewhere, which is quicker there and exact."""
    if config.dtype == "auto":
        return torch.bfloat16 if _native_bfloat16(device) else torch.float32
    return torch.float32 if config.dtype == "float32" else torch.bfloat16


def choose_kv_dtype(config: EngineConfig, dtype: torch.dtype) -> torch.dtype:
    """What KV is kept as where the model computes in `dtype`."""
    return SCALED_DTYPES.get(config.kv_dtype, dtype)


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def choose_num_blocks(config: EngineConfig, device: torch.device, bytes_per_token: int, max_context: int) -> int:
    """Blocks of the KV pool: `kv_cache_tokens` rounded up, or a share of the memory that is free now."""
    tokens = config.kv_cache_tokens
    if tokens is None:
        # eight full windows hold several compositions and their past; more would only take memory
        tokens = min(_free_bytes(device) // bytes_per_token, 8 * max_context)
        tokens = max(tokens, config.block_size)
    return -(-tokens // config.block_size)


def processors(device: torch.device) -> int:
    """How many multiprocessors a GPU has; of a CPU as many as make it worth to part the work."""
    if device.type != "cuda":
        return 8
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a GPU gives to one program; a CPU, which interprets, has enough."""
    properties = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    # not every torch for every GPU tells
    return int(getattr(properties, "shared_memory_per_block_optin", 1 << 30))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * _CUDA_SHARE)
    import psutil  # only here: with a GPU, or with kv_cache_tokens given, the engine does without it

    return min(_CPU_MOST, int(psutil.virtual_memory().available * _CPU_SHARE))
