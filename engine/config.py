"""What a caller can choose: `EngineConfig` when an engine starts, `SamplingParams` for each answer.

Plain values, validated here; knows nothing of torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from engine.errors import InvalidRequestError

DType = Literal["auto", "float32", "bfloat16"]
KVDType = Literal["auto", "fp8", "int8"]
Attention = Literal["auto", "torch", "triton", "flash"]
Fidelity = Literal["exact", "auto", "instant"]
Order = Literal["recency", "fixed"]

DEFAULT_MODEL = "qwen2.5-coder-0.5b"
DEFAULT_INSTRUCTIONS = "You are a helpful coding assistant. Answer from the user's files, which follow."


@dataclass(frozen=True)
class EngineConfig:
    """How to build an engine.

    Attributes:
        model: catalogue name, folder of safetensors, or path of a GGUF file.
        device: ``auto`` takes CUDA where there is one, else the CPU.
        dtype: of weights and KV. ``auto`` takes bfloat16 where the device multiplies it natively, else float32. A
            checkpoint with quantized weights keeps its own.
        kv_dtype: of KV alone. ``auto`` takes the model's; ``fp8`` (float8 e4m3) and ``int8`` take about half the memory
            of bfloat16, with a scale for each token and head. docs/fidelity.md tells what that costs.
        attention: which backend attends. ``auto`` takes ``torch`` on a CPU; on CUDA ``triton``, and ``flash`` for the
            steps of a prefill if that is found to be faster, where flash-attn is installed and fits the model.
        tensor_parallel_size: GPUs of this host that share each layer's weights and KV; a model of the Llama family, and
            ``triton`` attention, are needed for more than one.
        kv_cache_tokens: size of the KV pool in tokens; None takes a share of the device's free memory.
        max_context: longest prompt plus answer, tokens; None takes the model's own limit.
        block_size: token slots per KV block.
        slice_tokens: most tokens prefilled before the worker looks for more urgent work. None sizes slices by measured
            speed: what others wait for takes about 20 ms, where a device can compute 128 tokens in that time. On a CPU
            it looks between layers as well.
        max_batch: most answers decoded together.
        threads: most CPU threads for tensor work; None leaves torch's own choice. Decoding takes fewer where these are
            as quick.
        refine: whether contexts' KV is kept up in the background by itself, until all of it is exact; without it,
            background prefill is done when `populate` asks for it.
        speculation: whether tokens that are likely to come next, because they have stood behind the same words before,
            are computed together with the next one. Answers are the same as without.
        quantized_decode: whether steps of few tokens on a CPU read a GGUF's own quantized weights, where the model came
            from one; without, the weights that prefill multiplies with, which are two to four times as many bytes.
        latency_budget: seconds that an `auto` question waits longer for exact KV than for the KV there is, and that may
            go into chunks brought in from elsewhere before they are read.
    """

    model: str = DEFAULT_MODEL
    device: str = "auto"
    dtype: DType = "auto"
    kv_dtype: KVDType = "auto"
    attention: Attention = "auto"
    tensor_parallel_size: int = 1
    kv_cache_tokens: int | None = None
    max_context: int | None = None
    block_size: int = 64
    slice_tokens: int | None = None
    max_batch: int = 16
    threads: int | None = None
    refine: bool = True
    speculation: bool = True
    quantized_decode: bool = True
    latency_budget: float = 0.3

    def __post_init__(self) -> None:
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise InvalidRequestError(f"dtype must be auto, float32 or bfloat16, not {self.dtype!r}")
        if self.kv_dtype not in get_args(KVDType):
            raise InvalidRequestError(f"kv_dtype must be auto, fp8 or int8, not {self.kv_dtype!r}")
        if self.attention not in get_args(Attention):
            raise InvalidRequestError(f"attention must be auto, torch, triton or flash, not {self.attention!r}")
        for name in ("tensor_parallel_size", "block_size", "max_batch"):
            if getattr(self, name) < 1:
                raise InvalidRequestError(f"{name} must be at least 1")
        for name in ("kv_cache_tokens", "max_context", "slice_tokens", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidRequestError(f"{name} must be at least 1 or None")
        if not self.latency_budget >= 0:
            raise InvalidRequestError("latency_budget must be 0 or more seconds")


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen and when an answer ends.

    Attributes:
        temperature: 0 is greedy.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches p.
        min_p: drop tokens less likely than min_p times the likeliest.
        repetition_penalty: > 1 makes tokens of the prompt and the answer less likely (CTRL, arXiv 1909.05858).
        max_tokens: most tokens to generate; None means as many as the context window allows.
        stop: strings that end the answer and are not part of it.
        seed: makes sampling repeatable; None draws a fresh one.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = None
    stop: tuple[str, ...] = field(default=())
    seed: int | None = None

    def __post_init__(self) -> None:
        checks = (
            (self.temperature >= 0, "temperature must be 0 or more"),
            (self.top_k >= 0, "top_k must be 0 or more"),
            (0 < self.top_p <= 1, "top_p must be above 0 and at most 1"),
            (0 <= self.min_p <= 1, "min_p must be between 0 and 1"),
            (self.repetition_penalty > 0, "repetition_penalty must be above 0"),
            (self.max_tokens is None or self.max_tokens >= 1, "max_tokens must be at least 1"),
            (all(self.stop), "stop strings must not be empty"),
        )
        for holds, message in checks:
            if not holds:
                raise InvalidRequestError(message)
