"""The converting process: `python -m engine.models.gguf_conversion FILE.gguf FOLDER`.

transformers reads the GGUF and writes the folder; here is only what has to be put right in between. Prints one JSON
report per line: {"step": str, "fraction": float}. Knows nothing of caches, stamps or locks.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import gguf
import torch
import transformers

SAME_MATRIX = 0.5
"""Two matrices that differ by less than this share of their norm are one matrix, quantized twice: quantizing to 2 bits
stays below 0.3, and unrelated matrices of equal norm are 1.4 apart."""


def main() -> None:
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    _spare_repeated_parsing()
    report("reading the file", 0.0)
    tensors = gguf.GGUFReader(str(source)).tensors
    report("reading the file", 0.1)
    _report_dequantizing(len(tensors), 0.2, 0.6)
    model = load(source)
    tie_if_same(model, output_is_finer({tensor.name: tensor.tensor_type for tensor in tensors}))
    report("reading the tokenizer", 0.6)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    report("writing", 0.8)
    save(model, folder)
    tokenizer.save_pretrained(folder)
    report("done", 1.0)


def load(source: Path) -> Any:
    """The model in bfloat16, every tensor dequantized: packed weights could not be saved as safetensors."""
    options: dict[str, Any] = {"dtype": torch.bfloat16}
    if hasattr(transformers, "GgufConfig"):  # older releases of transformers know no packed weights
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    return transformers.AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, **options)


def output_is_finer(types: dict[str, Any]) -> bool:
    """Whether the output matrix has at least as many bits per weight as the embedding. `types`: GGUF tensor types."""

    def bits(name: str) -> float:
        block_weights, block_bytes = gguf.GGML_QUANT_SIZES[types[name]]
        return 8 * block_bytes / block_weights

    pair = ("output.weight", "token_embd.weight")
    return all(name in types for name in pair) and bits(pair[0]) >= bits(pair[1])


def tie_if_same(model: Any, keep_output: bool) -> bool:
    """Ties embedding and output if they are one matrix, to the finer of its two quantizations; says whether it did.

    Many GGUFs of tied models carry the matrix twice, and transformers then takes the model for an untied one.
    """
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    if output is None or output.weight is embedding.weight or not same_matrix(embedding.weight, output.weight):
        return False
    embedding.weight = output.weight = output.weight if keep_output else embedding.weight
    model.config.get_text_config().tie_word_embeddings = True
    model.config.tie_word_embeddings = True
    return True


def same_matrix(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two [vocabulary, width] matrices agree but for quantization; judged by every 16th row."""
    if a.shape != b.shape:
        return False
    a, b = a.detach()[::16].float(), b.detach()[::16].float()
    return bool((a - b).norm() < SAME_MATRIX * torch.maximum(a.norm(), b.norm()))


def save(model: Any, folder: Path) -> None:
    """Writes config, generation config and safetensors. The weights are plain by now, so the GGUF's marks come off."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
    model.save_pretrained(folder)


def report(step: str, fraction: float) -> None:
    print(json.dumps({"step": step, "fraction": round(fraction, 3)}), flush=True)


def _spare_repeated_parsing() -> None:
    """transformers would parse the file three times (a vocabulary takes seconds), and map names once per submodule."""
    package: Any = gguf
    package.GGUFReader = functools.cache(gguf.GGUFReader)
    package.get_tensor_name_map = functools.cache(gguf.get_tensor_name_map)


def _report_dequantizing(tensors: int, start: float, end: float) -> None:
    """Counts tensors as transformers has them dequantized, for progress between `start` and `end`."""
    dequantize, done = gguf.dequantize, 0

    @functools.wraps(dequantize)
    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        done += 1
        report("dequantizing", start + (end - start) * min(done / tensors, 1.0))
        return dequantize(*args, **kwargs)

    gguf.dequantize = counting


if __name__ == "__main__":
    main()
