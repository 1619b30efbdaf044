"""Triton's operations of the decoder against plain torch's, kernel by kernel and as whole models.

Without a GPU the kernels are interpreted, on small shapes; with one they are compiled and meet those of real models.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.models.choose_ops import choose_ops
from engine.models.decoder import Decoder
from engine.models.decoder_ops import DecoderOps, TorchOps
from engine.models.language_model import Attend
from engine.models.loading import load_decoder
from tests.tiny_models import NATIVE, tiny_model

pytest.importorskip("triton")
from engine.models.triton_ops import TritonOps

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
EPS = 1e-5

SMALL = [(40, 24), (17, 150)]
"""[out, in] that no tile divides."""
REAL = [(4608, 3584), (37888, 3584), (3584, 18944), (3584, 3584), (28672, 4096), (4096, 14336), (960, 576), (576, 1536)]

TOKENS = [1, 2, 5, 17]
DTYPES = [torch.float32, torch.bfloat16]
on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not CUDA, reason="needs a CUDA device")]
SHAPES = [*SMALL, *(pytest.param(shape, marks=on_gpu) for shape in REAL)]
of_every_kind = [
    pytest.mark.parametrize("bias", [False, True]),
    pytest.mark.parametrize("dtype", DTYPES, ids=str),
    pytest.mark.parametrize("tokens", TOKENS),
    pytest.mark.parametrize("shape", SHAPES, ids=str),
]


def random(*shape: int, seed: int = 0, around: float = 0.0) -> Tensor:
    return torch.randn(shape, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(seed)) + around


def operands(shape: tuple[int, int], tokens: int, dtype: torch.dtype, bias: bool) -> tuple[Tensor, ...]:
    """x, norm, weight and bias of one scale each, so that results are about 1."""
    out, inner = shape
    x, norm = random(tokens, inner, seed=1) * 3, random(inner, seed=2, around=1.0)
    weight, offset = random(out, inner, seed=3) / inner**0.5, random(out, seed=4)
    x, norm, weight, offset = (tensor.to(dtype) for tensor in (x, norm, weight, offset))
    return x, norm, weight, offset if bias else None  # type: ignore[return-value]


def exactly(*tensors: Tensor | None) -> list[Tensor]:
    return [tensor if tensor is None else tensor.double() for tensor in tensors]  # type: ignore[misc]


def check(found: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    """Found in `dtype` what is exact."""
    assert found.dtype == dtype
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), exact, atol=tolerance * float(exact.abs().mean() + 1), rtol=tolerance)


def every_kind(test):
    for mark in of_every_kind:
        test = mark(test)
    return test


@pytest.fixture
def ops() -> TritonOps:
    return TritonOps(EPS, DEVICE)


@every_kind
def test_linear_of_what_is_normed(ops, shape, tokens, dtype, bias):
    given = operands(shape, tokens, dtype, bias)
    check(ops.norm_linear(*given), TorchOps(EPS).norm_linear(*exactly(*given)), dtype)


@every_kind
def test_gated_product_of_what_is_normed(ops, shape, tokens, dtype, bias):
    given = operands((shape[0] // 2 * 2, shape[1]), tokens, dtype, bias)
    check(ops.norm_gated(*given), TorchOps(EPS).norm_gated(*exactly(*given)), dtype)


@every_kind
def test_linear_that_is_added(ops, shape, tokens, dtype, bias):
    x, _, weight, offset = operands(shape, tokens, dtype, bias)
    total = random(tokens, shape[0], seed=5).to(dtype)
    exact = total.double()
    TorchOps(EPS).add_linear_(exact, *exactly(x / 3, weight, offset))
    ops.add_linear_(total, x / 3, weight, offset)
    check(total, exact, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("shape", [*SMALL, *(pytest.param(s, marks=on_gpu) for s in [(152064, 3584), (151936, 1024)])])
def test_logits_are_float32(ops, shape, tokens, dtype):
    x, _, weight, _ = operands(shape, tokens, dtype, False)
    logits = ops.logits(x, weight)
    assert logits.dtype == torch.float32
    check(logits.to(dtype), TorchOps(EPS).logits(*exactly(x, weight)).double(), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 2, 32), (3, 1, 24), (16, 8, 128), (9, 3, 64), (2, 1, 256)])
def test_heads_are_normed_where_they_lie(ops, heads, kv_heads, dim, tokens, dtype):
    qkv = random(tokens, heads + 2 * kv_heads, dim, seed=1).to(dtype)
    q_norm, k_norm = (random(dim, seed=seed, around=1.0).to(dtype) for seed in (2, 3))
    before = qkv.clone()
    q, k, v = qkv.split_with_sizes((heads, kv_heads, kv_heads), 1)
    exact = TorchOps(EPS).norm_heads(*exactly(q, k, q_norm, k_norm))
    for found, wanted in zip(ops.norm_heads(q, k, q_norm, k_norm), exact, strict=True):
        check(found, wanted, dtype)
    assert torch.equal(v, before[:, heads + kv_heads :])


@pytest.mark.parametrize("tokens", [1, 3])
def test_rows_may_be_strided(ops, tokens):
    """Of x, as attention may return them, and of weights, as a share of a larger matrix has them."""
    x, norm, weight, _ = operands((40, 24), tokens, torch.float32, False)
    gaps, wide = torch.stack((x, x), -1).flatten(1)[:, ::2], torch.cat((weight, weight), 1)[:, :24]
    check(ops.norm_linear(gaps, norm, wide, None), ops.norm_linear(x, norm, weight, None).double(), torch.float32)
    check(ops.norm_gated(gaps, norm, wide, None), ops.norm_gated(x, norm, weight, None).double(), torch.float32)
    totals = torch.zeros(2, tokens, 40, device=DEVICE)
    ops.add_linear_(totals[0], gaps, wide, None)
    ops.add_linear_(totals[1], x, weight, None)
    check(totals[0], totals[1].double(), torch.float32)


def summing(decoder: Decoder) -> Attend:
    """An attention that needs no positions: each query head takes the values before it, weighed by its keys."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * decoder.layers[layer].scale
        ahead = torch.ones(len(q), len(q), dtype=torch.bool, device=q.device).triu(1)
        return torch.einsum("hqk,khd->qhd", scores.masked_fill(ahead, float("-inf")).softmax(-1), v)

    return attend


def logits_with(decoder: Decoder, ops: DecoderOps, tokens: int) -> Tensor:
    model = Decoder(decoder.config, decoder.weights, ops)
    ids = torch.arange(tokens, device=DEVICE) * 7 + 11
    with torch.inference_mode():
        return model.logits(model.forward(ids, torch.arange(tokens, device=DEVICE), summing(model))[-1:])


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("family", NATIVE if CUDA else ["llama-biased", "qwen3"])
def test_a_model_computes_the_same_with_either(family, tokens):
    decoder = load_decoder(tiny_model(family), device=DEVICE, dtype=torch.float32)
    eps = decoder.config.rms_norm_eps
    plain = logits_with(decoder, TorchOps(eps), tokens)
    torch.testing.assert_close(logits_with(decoder, TritonOps(eps, DEVICE), tokens), plain, atol=1e-4, rtol=1e-4)


def test_where_there_is_no_gpu_torch_computes():
    assert isinstance(choose_ops(torch.device("cpu"), EPS), TorchOps)


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
@pytest.mark.parametrize("tokens", [1, 5])
def test_a_captured_pass_replays(tokens):
    decoder = load_decoder(tiny_model("qwen3"), device=DEVICE, dtype=torch.bfloat16)
    assert isinstance(choose_ops(DEVICE, EPS), TritonOps)
    ids, positions = torch.zeros(tokens, dtype=torch.int64, device=DEVICE), torch.arange(tokens, device=DEVICE)
    with torch.inference_mode():
        run = lambda: decoder.logits(decoder.forward(ids, positions, summing(decoder))[-1:])  # noqa: E731
        run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = run()
        for start in (3, 50):
            ids.copy_(torch.arange(tokens, device=DEVICE) + start)
            graph.replay()
            assert torch.equal(captured, run())
