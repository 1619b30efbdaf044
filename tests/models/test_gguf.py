"""Converting GGUF files: the same weights, tokenizer and template, done once, whole or not at all."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, get_tensor_name_map
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from engine.errors import ConversionError, DownloadError
from engine.models import catalogue, gguf, gguf_conversion
from engine.models.packed_weights import PACKED, open_packed
from engine.models.resolve import resolve_model
from tests.models.tiny_gguf import quantized, tiny_qwen2, write_gguf
from tests.tiny_models import tiny_model

pytestmark = pytest.mark.timeout(900)

WAIT = 120.0
TEXTS = (
    "def add(left: int, right: int) -> int:\n    return left + right\n\n\nPORT = 8417  # not 8418\n",
    "It's a test — isn't it? Ünïcödé, 日本語, emoji 🙂, tabs\tand   spaces.\r\n\r\n",
    '{\'a\': [1, 2.5e-3], "b": 0xFF}\nfor i in range(10):\n\tprint(f"{i:>4}")',
    "<|im_start|>user\nHello<|im_end|>\n",
)
INDENTED_DIGITS = "values = (\n    1,\n    23,\n)\n\n1. first\n\n2. second   3"


# --- a real model ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm() -> Iterator[tuple[Path, Path]]:
    """The real SmolLM2-135M: its GGUF and what was made of it."""
    model = catalogue.find("smollm2-135m")
    assert model is not None
    try:
        folder = resolve_model(model.name)
    except DownloadError as error:
        pytest.skip(error.message)
    with pytest.MonkeyPatch.context() as patch:  # transformers parses the file once instead of four times
        patch.setattr("gguf.GGUFReader", functools.cache(GGUFReader))
        patch.setattr("gguf.get_tensor_name_map", functools.cache(get_tensor_name_map))
        yield catalogue.model_file(model), folder


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    """[tokens, vocabulary], float32."""
    with torch.inference_mode():
        result: torch.Tensor = model(torch.tensor([ids])).logits[0]
        return result.float()


def test_real_weights_are_those_that_transformers_reads(smollm: tuple[Path, Path]) -> None:
    file, folder = smollm
    expected = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    actual = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    parameters = dict(actual.named_parameters())
    for name, weight in expected.named_parameters():
        assert torch.equal(parameters.pop(name), weight.bfloat16().float()), name
    assert not parameters
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}

    ids = AutoTokenizer.from_pretrained(folder)(TEXTS[0])["input_ids"]
    one, other = logits(expected, ids), logits(actual, ids)
    divergence = torch.nn.functional.kl_div(
        other.log_softmax(-1), one.log_softmax(-1), log_target=True, reduction="none"
    )
    assert divergence.sum(-1).max() < 2e-3
    assert (one - other).norm() < 0.02 * one.norm()


@pytest.fixture(scope="module")
def tokenizers(smollm: tuple[Path, Path]) -> tuple[Any, Any]:
    """transformers' own reading of the GGUF's tokenizer, and the converted one."""
    file, folder = smollm
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name), AutoTokenizer.from_pretrained(folder)


def test_real_tokenizer_and_template_are_the_same(tokenizers: tuple[Any, Any]) -> None:
    expected, actual = tokenizers
    assert actual.get_vocab() == expected.get_vocab()
    assert actual.added_tokens_decoder.keys() == expected.added_tokens_decoder.keys()
    assert (actual.bos_token, actual.eos_token, actual.pad_token) == (
        expected.bos_token,
        expected.eos_token,
        expected.pad_token,
    )
    for text in TEXTS:
        assert actual(text)["input_ids"] == expected(text)["input_ids"]
        assert actual.decode(actual(text)["input_ids"]) == text
    assert actual.chat_template == expected.chat_template
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert actual.apply_chat_template(chat, add_generation_prompt=True) == expected.apply_chat_template(
        chat, add_generation_prompt=True
    )


def test_real_tokenizer_splits_digits_off_first(tokenizers: tuple[Any, Any]) -> None:
    """The GGUF says `smollm`: each digit alone, and whatever is between two digits cut as if it stood alone."""
    theirs, ours = tokenizers
    pieces = [piece for piece in re.split(r"(\d)", INDENTED_DIGITS) if piece]
    expected = [token for piece in pieces for token in theirs(piece)["input_ids"]]
    assert ours(INDENTED_DIGITS)["input_ids"] == expected


def test_real_answers_end_at_every_ending_token(smollm: tuple[Path, Path], tokenizers: tuple[Any, Any]) -> None:
    endings = GenerationConfig.from_pretrained(smollm[1]).eos_token_id
    assert tokenizers[1].convert_ids_to_tokens(endings) == ["<|im_end|>", "<|endoftext|>"]


def test_every_real_matrix_is_packed(smollm: tuple[Path, Path]) -> None:
    dense, packed = load_file(smollm[1] / "model.safetensors"), open_packed(smollm[1])
    matrices = {name for name, weight in dense.items() if weight.dim() == 2 and "embed_tokens" not in name}
    assert packed.keys() == matrices | {"lm_head.weight"}
    for name, matrix in packed.items():
        expected = dense[name if name in dense else "model.embed_tokens.weight"].float()
        assert (matrix.weights().bfloat16().float() == expected).all(), name


# --- tied or not ----------------------------------------------------------------------------------------------------


def converted(tmp_path: Path, **matrices: Any) -> Path:
    folder = tmp_path / "converted"
    gguf_conversion.convert(write_gguf(tmp_path / "tiny.gguf", **matrices), folder)
    return folder


def assert_same_answers(folder: Path, embedding: torch.Tensor, output: torch.Tensor) -> None:
    """The folder must hold `tiny_qwen2` with these two matrices, all rounded to bfloat16."""
    oracle = tiny_qwen2()
    oracle.lm_head.weight = torch.nn.Parameter(output)
    oracle.model.embed_tokens.weight = torch.nn.Parameter(embedding)
    for parameter in oracle.parameters():
        parameter.data = parameter.data.bfloat16().float()
    ids = AutoTokenizer.from_pretrained(tiny_model("qwen2"))(TEXTS[0])["input_ids"]
    actual = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert AutoTokenizer.from_pretrained(folder)(TEXTS[0])["input_ids"] == ids
    torch.testing.assert_close(logits(actual, ids), logits(oracle, ids), rtol=1e-4, atol=1e-4)


def is_tied(folder: Path) -> bool:
    model = AutoModelForCausalLM.from_pretrained(folder)
    stored = "lm_head.weight" in load_file(folder / "model.safetensors")
    assert model.config.tie_word_embeddings is not stored
    return model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("coarse", "fine"), [(Type.Q4_0, Type.Q8_0), (Type.Q5_0, Type.Q8_0), (Type.Q8_0, Type.F32), (Type.Q4_0, Type.Q4_0)]
)
@pytest.mark.parametrize("finer", ["output", "embedding"])
def test_one_matrix_stored_twice_is_tied_to_the_finer(tmp_path: Path, coarse: Type, fine: Type, finer: str) -> None:
    weight = tiny_qwen2().lm_head.weight
    kinds = (coarse, fine) if finer == "output" else (fine, coarse)
    folder = converted(tmp_path, embedding=(weight, kinds[0]), output=(weight, kinds[1]))

    assert is_tied(folder)
    assert_same_answers(folder, quantized(weight, fine), quantized(weight, fine))


def test_two_matrices_stay_two(tmp_path: Path) -> None:
    weight = tiny_qwen2().lm_head.weight
    other = weight.flip(1).contiguous()
    folder = converted(tmp_path, embedding=(weight, Type.F32), output=(other, Type.Q8_0))

    assert not is_tied(folder)
    assert_same_answers(folder, weight.detach(), quantized(other, Type.Q8_0))


@pytest.mark.parametrize("finer", ["output", "embedding"])
def test_the_packed_output_is_the_one_that_was_kept(tmp_path: Path, finer: str) -> None:
    weight = tiny_qwen2().lm_head.weight
    kinds = (Type.Q5_0, Type.Q8_0) if finer == "output" else (Type.Q8_0, Type.Q5_0)
    folder = converted(tmp_path, embedding=(weight, kinds[0]), output=(weight, kinds[1]))

    packed = open_packed(folder)
    assert packed.keys() == {"lm_head.weight"}  # all else in the file is float
    assert torch.equal(packed["lm_head.weight"].weights(), quantized(weight, Type.Q8_0))


def test_a_model_of_floats_has_no_packed_matrix(tmp_path: Path) -> None:
    weight = tiny_qwen2().lm_head.weight
    folder = converted(tmp_path, embedding=(weight, Type.F32), output=(weight, Type.Q8_0))
    assert is_tied(folder)
    assert not (folder / PACKED).exists()


def test_one_matrix_stored_once_is_tied(tmp_path: Path) -> None:
    weight = tiny_qwen2().lm_head.weight
    folder = converted(tmp_path, embedding=(weight, Type.Q8_0), output=None)

    assert is_tied(folder)
    assert_same_answers(folder, quantized(weight, Type.Q8_0), quantized(weight, Type.Q8_0))


# --- once, whole or not at all --------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "smollm" not in request.fixturenames:
        monkeypatch.setenv(catalogue.CACHE_ENV, str(tmp_path / "cache"))


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    """A GGUF in a folder of its own."""
    weight = tiny_qwen2().lm_head.weight
    (tmp_path / "models").mkdir()
    return write_gguf(tmp_path / "models" / "tiny.gguf", embedding=(weight, Type.F32), output=None)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replaces the converting process by one that writes a file; lists the folders it was asked for."""
    asked: list[Path] = []

    def run(file: Path, folder: Path, progress: Any) -> None:
        asked.append(folder)
        (folder / "model.safetensors").write_bytes(file.read_bytes())

    monkeypatch.setattr(gguf, "_run_conversion", run)
    return asked


def neighbours(file: Path) -> set[str]:
    return {path.name for path in file.parent.iterdir()}


def test_a_process_of_its_own_converts(tiny_file: Path) -> None:
    reports: list[tuple[str, float | None]] = []

    folder = gguf.convert(tiny_file, progress=lambda message, fraction: reports.append((message, fraction)))

    assert folder == tiny_file.parent / "tiny-safetensors"
    assert neighbours(tiny_file) == {"tiny.gguf", "tiny-safetensors"}
    assert {path.name for path in folder.iterdir()} >= {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    }
    weight = tiny_qwen2().lm_head.weight.detach()
    assert_same_answers(folder, weight, weight)
    fractions = [fraction for _, fraction in reports if fraction is not None]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert {"dequantizing", "writing", "packing"} <= {message.rpartition(": ")[2] for message, _ in reports}


def test_it_is_done_once(tiny_file: Path, runs: list[Path]) -> None:
    folder = gguf.convert(tiny_file)
    assert gguf.convert(tiny_file) == folder
    assert len(runs) == 1


def spoil_version(file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "CONVERSION_VERSION", gguf.CONVERSION_VERSION + 1)


def spoil_source(file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def spoil_weights(file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(folder / "model.safetensors", 10)


def spoil_folder(file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "model.safetensors").unlink()


def spoil_stamp(file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / gguf.STAMP).write_text("{")


@pytest.mark.parametrize("spoil", [spoil_version, spoil_source, spoil_weights, spoil_folder, spoil_stamp])
def test_it_is_done_again_when_something_has_changed(
    tiny_file: Path, runs: list[Path], monkeypatch: pytest.MonkeyPatch, spoil: Callable[..., None]
) -> None:
    folder = gguf.convert(tiny_file)
    spoil(tiny_file, folder, monkeypatch)
    assert not gguf.is_converted(tiny_file)

    assert gguf.convert(tiny_file) == folder

    assert len(runs) == 2
    assert gguf.is_converted(tiny_file)
    assert (folder / "model.safetensors").read_bytes() == tiny_file.read_bytes()
    assert neighbours(tiny_file) == {"tiny.gguf", "tiny-safetensors"}


def test_a_failed_conversion_leaves_the_old_folder(
    tiny_file: Path, runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = gguf.convert(tiny_file)
    before = (folder / "model.safetensors").read_bytes()
    tiny_file.write_bytes(b"GGUF but not really")
    monkeypatch.undo()

    with pytest.raises(ConversionError, match=r"tiny\.gguf could not be converted: \S"):
        gguf.convert(tiny_file)

    assert neighbours(tiny_file) == {"tiny.gguf", "tiny-safetensors"}
    assert (folder / "model.safetensors").read_bytes() == before
    assert not gguf.is_converted(tiny_file)


def test_a_killed_converter_is_told_and_leaves_nothing(tiny_file: Path) -> None:
    def kill(message: str, fraction: float | None) -> None:
        for child in psutil.Process().children():
            # what other tests started may end, or wait for its parent, at any moment
            with contextlib.suppress(psutil.NoSuchProcess):
                if str(tiny_file) in child.cmdline():
                    child.kill()

    with pytest.raises(ConversionError, match="SIGKILL"):
        gguf.convert(tiny_file, progress=kill)

    assert neighbours(tiny_file) == {"tiny.gguf"}


def test_what_an_interrupted_conversion_left_is_cleared(tiny_file: Path, runs: list[Path]) -> None:
    leftover = tiny_file.parent / ".tiny-safetensors.abc"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")

    gguf.convert(tiny_file)

    assert neighbours(tiny_file) == {"tiny.gguf", "tiny-safetensors"}


def test_a_second_process_waits_for_the_first(tiny_file: Path, runs: list[Path]) -> None:
    waiting = threading.Event()
    results: list[Path] = []

    def report(message: str, fraction: float | None) -> None:
        if "Waiting" in message:
            waiting.set()

    def second() -> None:
        results.append(gguf.convert(tiny_file, progress=report))

    folder = gguf.converted_folder(tiny_file)
    thread = threading.Thread(target=second)
    with gguf._lock(folder):
        thread.start()
        assert waiting.wait(WAIT)
        assert not runs
    thread.join(WAIT)

    assert results == [folder]
    assert len(runs) == 1


def test_a_folder_that_cannot_be_written_is_left_alone(
    tiny_file: Path, runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tiny_file.parent)

    folder = gguf.convert(tiny_file)

    assert folder.is_relative_to(catalogue.cache_root())
    assert neighbours(tiny_file) == {"tiny.gguf"}
    assert gguf.is_converted(tiny_file)
    copy = tiny_file.parent / "copy" / tiny_file.name
    copy.parent.mkdir()
    shutil.copy2(tiny_file, copy)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert gguf.converted_folder(copy) != folder


def test_the_parent_stays_free_of_torch() -> None:
    script = "import sys, engine.models.resolve; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    child = psutil.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    assert child.wait() == 0
