"""The engine on CUDA: kernels against the definition, numbers against transformers. Skipped where there is no GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine import Engine, SamplingParams
from engine.attention.dense import _attend_plain, attend
from tests.engine.oracle import Oracle, finish, recorded_logits
from tests.engine.test_kv_dtype import ask
from tests.engine.test_parity import FILES, config
from tests.tiny_models import ADAPTED, tiny_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(28, 4, 128), (14, 2, 64), (8, 8, 96), (4, 1, 256)])
@pytest.mark.parametrize(("n", "m", "causal"), [(1, 1000, False), (300, 1000, False), (300, 300, True), (1, 1, True)])
def test_attention_agrees_with_the_definition(
    dtype: torch.dtype, heads: int, kv_heads: int, dim: int, n: int, m: int, causal: bool
) -> None:
    torch.manual_seed(0)
    pool = torch.randn(2, kv_heads, m + 77, dim, device="cuda", dtype=dtype)
    k, v = pool[0, :, 33 : 33 + m], pool[1, :, 33 : 33 + m]
    q = torch.randn(n, heads, dim, device="cuda", dtype=dtype).transpose(0, 1)
    output, lse = attend(q, k, v, scale=dim**-0.5, causal=causal)
    expected, expected_lse = _attend_plain(
        q.float(), k.float(), v.float(), scale=dim**-0.5, causal=causal, allowed=None
    )
    tolerance = 1e-4 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(output.float(), expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(lse, expected_lse, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral-sliding", "smollm3", *ADAPTED])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_after_a_history_are_as_close_to_float32_as_transformers_own(family: str, dtype: str) -> None:
    folder = tiny_model(family)
    with Engine(config(folder, device="cuda", dtype=dtype)) as engine:
        context = engine.context()
        for source, text in FILES.items():
            context.add_chunk(text, source=source)
        context.populate()
        assert context.wait_populated(60)
        context.deactivate("a.py")
        finish(context.chat("What is read once?", SamplingParams(max_tokens=3), fidelity="instant"))
        context.add_chunk(FILES["c.py"] * 2, source="c.py")
        ids = context.prompt_tokens("What is read once?")
        params = SamplingParams(max_tokens=1)
        with recorded_logits(engine, params) as recorded:
            finish(context.chat("What is read once?", params))
        engine.check_integrity()
    exact = Oracle(folder).logits(ids)[-1]
    theirs = Oracle(folder, dtype=getattr(torch, dtype), device="cuda").logits(ids)[-1].cpu()
    # small random models make much of every rounding, so the bar is what transformers makes of it
    assert distance(recorded[0].cpu(), exact) <= max(1e-4, 1.5 * distance(theirs, exact))


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 5e-3), ("bfloat16", 0.1)])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("kv_dtype", ["fp8", "int8"])
def test_with_kv_in_8_bits_an_exact_answer_after_a_history_is_a_cold_runs(
    family: str, kv_dtype: str, dtype: str, rounding: float
) -> None:
    """As far as the model's own dtype says what that is: its roundings tip some of the pool's."""
    folder = tiny_model(family)
    on_cuda = {"device": "cuda", "dtype": dtype}
    _, cold = ask(folder, history=False, kv_dtype=kv_dtype, **on_cuda)
    _, warm = ask(folder, history=True, kv_dtype=kv_dtype, slice_tokens=17, **on_cuda)
    _, unscaled = ask(folder, history=False, **on_cuda)
    assert distance(warm[0], cold[0]) < rounding
    assert 0 < distance(cold[0], unscaled[0]) < 0.35


def distance(logits: Tensor, exact: Tensor) -> float:
    return float((logits.float() - exact).norm() / exact.norm())
