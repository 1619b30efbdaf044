"""The converting process: `python -m engine.models.gguf_conversion FILE.gguf FOLDER`.

transformers reads the GGUF and writes the folder; `gguf_corrections` puts right what it misses in between, and
`gguf_packing` adds the file's own quantized weights. Prints one JSON report per line: {"step": str, "fraction": float}.
Knows nothing of caches, stamps or locks.
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

from engine.models.gguf_corrections import output_is_finer, set_endings, split_digits, tie_if_same
from engine.models.gguf_packing import pack_matrices


def main() -> None:
    report("reading the file", 0.0)
    _spare_repeated_parsing()
    _report_dequantizing(0.2, 0.6)
    convert(Path(sys.argv[1]), Path(sys.argv[2]))


def convert(source: Path, folder: Path) -> None:
    """Reads the GGUF `source` and writes config, weights, tokenizer and packed matrices into `folder`."""
    reader = gguf.GGUFReader(str(source))
    report("reading the file", 0.1)
    _convert_model(source, reader, folder)
    # from the folder, when the model is out of memory
    pack_matrices(reader, folder, lambda done: report("packing", 0.85 + 0.15 * done))
    report("packing", 1.0)


def _convert_model(source: Path, reader: gguf.GGUFReader, folder: Path) -> None:
    model = load(source)
    tie_if_same(model, output_is_finer({tensor.name: tensor.tensor_type for tensor in reader.tensors}))
    report("reading the tokenizer", 0.6)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    pre = reader.fields.get("tokenizer.ggml.pre")
    split_digits(tokenizer, pre and pre.contents())
    set_endings(model, tokenizer)
    report("writing", 0.8)
    save(model, folder)
    tokenizer.save_pretrained(folder)


def load(source: Path) -> Any:
    """The model in bfloat16, every tensor dequantized: packed weights could not be saved as safetensors."""
    options: dict[str, Any] = {"dtype": torch.bfloat16}
    if hasattr(transformers, "GgufConfig"):  # older releases of transformers know no packed weights
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    return transformers.AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, **options)


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


def _report_dequantizing(start: float, end: float) -> None:
    """Counts tensors as transformers has them dequantized, for progress between `start` and `end`."""
    package: Any = gguf
    dequantize, tensors, done = gguf.dequantize, len(gguf.GGUFReader(sys.argv[1]).tensors), 0

    @functools.wraps(dequantize)
    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        done += 1
        report("dequantizing", start + (end - start) * min(done / tensors, 1.0))
        return dequantize(*args, **kwargs)

    package.dequantize = counting


if __name__ == "__main__":
    main()
