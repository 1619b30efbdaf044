"""A model that two processes hold the halves of gives what the whole one gives, and never hangs when one of them ends.

On the CPU by gloo, with Triton's kernels interpreted; on two GPUs by NCCL, with captured graphs.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need triton")

import engine.engine
from engine import Engine, EngineConfig, EngineError, SamplingParams
from engine.errors import InvalidRequestError, UnsupportedModelError
from engine.models.load import load_shard
from engine.models.loading import load_decoder
from engine.parallel.followers import Followers
from engine.parallel.group import Group
from engine.runtime.make_runner import make_parallel_runner
from tests.engine.oracle import finish, recorded_logits
from tests.engine.ranks import logits_of, logits_of_ranks
from tests.engine.test_parity import config
from tests.tiny_models import make_tiny_model, tiny_model

CPU = torch.device("cpu")
GPUS = torch.cuda.device_count()
WITHOUT_GPU = pytest.mark.skipif(GPUS > 0, reason="Triton interprets nothing where there is a GPU")
TWO_GPUS = pytest.mark.skipif(GPUS < 2, reason="needs two CUDA devices")
SECONDS = 30.0


def parallel_config(family: str, **changes: object) -> EngineConfig:
    fields = {"tensor_parallel_size": 2, "attention": "triton", "refine": False}
    return config(tiny_model(family), **(fields | changes))


@pytest.fixture
def running() -> Iterator[Engine]:
    if GPUS == 1:
        pytest.skip("needs two CUDA devices, or none")
    with Engine(parallel_config("qwen2", device="cuda" if GPUS else "cpu")) as engine:
        yield engine


def followers_of(engine: Engine) -> Followers:
    followers = engine._state.model.followers
    assert followers is not None
    return followers


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return held


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "size", "changes"),
    [
        ("llama-biased", 2, {}),
        ("qwen2", 4, {"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 409}),
        ("qwen3", 2, {"tie_word_embeddings": False, "vocab_size": 409}),
    ],
)
def test_all_ranks_get_the_logits_of_the_whole_model(
    tmp_path: Path, family: str, size: int, changes: dict[str, Any]
) -> None:
    folder = make_tiny_model(family, tmp_path, **changes)
    expected = logits_of(load_decoder(folder, device=CPU, dtype=torch.float32))
    for found in logits_of_ranks(partial(load_shard, folder=folder, dtype=torch.float32), size):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def answers(settings: EngineConfig) -> list[tuple[str, Tensor]]:
    """Answers with their logits, while a file is loaded, edited and switched."""
    found = []
    with Engine(settings) as engine:
        context = engine.context()
        context.add_chunk("x = 1\n", source="a.py")
        context.add_chunk("y = x\n", source="b.py")
        changes: Sequence[Callable[[], object]] = (
            lambda: None,
            lambda: context.add_chunk("x = 2\n", source="a.py"),
            lambda: context.deactivate("b.py"),
        )
        for change in changes:
            change()
            params = SamplingParams(max_tokens=2)
            with recorded_logits(engine, params) as recorded:
                done = finish(context.chat("y?", params, fidelity="instant"))
            found.append((done.text, torch.stack([logits.cpu() for logits in recorded])))
        engine.check_integrity()
    return found


def assert_same(found: list[tuple[str, Tensor]], expected: list[tuple[str, Tensor]], tolerance: float) -> None:
    for (text, logits), (expected_text, expected_logits) in zip(found, expected, strict=True):
        assert text == expected_text
        torch.testing.assert_close(logits, expected_logits, atol=tolerance, rtol=tolerance)


@WITHOUT_GPU
@pytest.mark.parametrize(("family", "graphs"), [("qwen2", ()), ("qwen3", (1, 16))])
def test_a_history_gets_the_same_answers_from_two_processes(
    family: str, graphs: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answers(config(tiny_model(family), refine=False))
    monkeypatch.setattr(
        engine.engine, "make_runner", lambda model, _: make_parallel_runner(model, lambda *_: None, graphs)
    )
    assert_same(answers(parallel_config(family)), expected, 1e-3)


@pytest.mark.gpu
@TWO_GPUS
@pytest.mark.parametrize(("family", "dtype"), [("qwen2", "float32"), ("qwen3", "bfloat16")])
def test_a_history_gets_the_same_answers_from_two_gpus(family: str, dtype: str) -> None:
    settings = parallel_config(family, device="cuda", dtype=dtype)
    found = answers(settings)
    expected = answers(dataclasses.replace(settings, tensor_parallel_size=1))
    if dtype == "float32":
        return assert_same(found, expected, 1e-3)
    for (_, logits), (_, expected_logits) in zip(found, expected, strict=True):
        # the first token's: after that, rounding may have chosen others
        assert (logits[0] - expected_logits[0]).norm() <= 0.2 * expected_logits[0].norm()


@pytest.mark.gpu
@TWO_GPUS
def test_an_engine_may_have_another_gpu_than_the_first() -> None:
    settings = config(tiny_model("qwen2"), attention="triton", refine=False)
    expected = answers(dataclasses.replace(settings, device="cuda:0"))
    assert_same(answers(dataclasses.replace(settings, device="cuda:1")), expected, 1e-3)
    assert torch.cuda.current_device() == 0


# -- ends --------------------------------------------------------------------------------------------------------------


def test_closing_ends_all_processes(running: Engine) -> None:
    processes = followers_of(running)._processes
    assert [process.poll() for process in processes] == [None]
    running.close()
    assert all(process.poll() is not None for process in processes)


def test_an_answer_fails_when_a_process_ends_and_so_does_every_later_one(running: Engine) -> None:
    stream = running.chat([{"role": "user", "content": "y?"}], SamplingParams(max_tokens=2000))
    next(iter(stream))
    followers_of(running)._processes[0].kill()
    with pytest.raises(EngineError, match="rank 1 has ended"):
        finish(stream)
    with pytest.raises(EngineError, match="start the engine again"):
        finish(running.chat([{"role": "user", "content": "y?"}]))


def test_a_process_that_no_longer_answers_is_not_waited_for(running: Engine) -> None:
    followers = followers_of(running)
    os.kill(followers._processes[0].pid, signal.SIGSTOP)
    with pytest.raises(EngineError, match="no longer keep step"), followers.together(limit=0.5):
        followers.group.sum_(torch.ones(1, device=followers.group.device))
    assert followers._processes[0].wait(SECONDS) == -signal.SIGKILL


@WITHOUT_GPU
def test_processes_end_when_the_engine_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "serve.py"
    script.write_text(
        "import time\n"
        "from engine import Engine, EngineConfig\n"
        f"engine = Engine(EngineConfig({str(tiny_model('qwen2'))!r}, 'cpu', tensor_parallel_size=2))\n"
        "print(engine._state.model.followers._processes[0].pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "TRITON_INTERPRET": "1"}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        follower = int(process.stdout.readline())
        process.kill()
    assert eventually(lambda: not alive(follower))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


# -- refusals ----------------------------------------------------------------------------------------------------------


@WITHOUT_GPU
@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: EngineConfig(tensor_parallel_size=0), InvalidRequestError, "at least 1"),
        (lambda: Engine(parallel_config("phi3")), UnsupportedModelError, "native decoder"),
        (lambda: Engine(parallel_config("qwen2", tensor_parallel_size=3)), UnsupportedModelError, "num_kv_heads 2"),
        (lambda: Engine(parallel_config("qwen2", attention="torch")), InvalidRequestError, "'triton'"),
    ],
)
def test_what_can_not_be_shared_is_refused_at_once(
    make: Callable[[], object], error: type[EngineError], words: str
) -> None:
    with pytest.raises(error, match=words):
        make()


def test_what_a_process_fails_of_while_loading_is_told(tmp_path: Path) -> None:
    folder = make_tiny_model("qwen2", tmp_path)
    load = partial(fail_elsewhere, folder=folder)
    with pytest.raises(EngineError, match="rank 1 failed: no such shard"):
        engine.model.equip_shards(config(folder, tensor_parallel_size=2), load, [CPU, CPU], None)  # type: ignore[arg-type]


def fail_elsewhere(group: Group, progress: object, folder: Path) -> object:
    if group.rank:
        raise EngineError("no such shard")
    return load_shard(group, None, folder, torch.float32)
