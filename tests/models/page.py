"""The table of docs/models.md, made from what the tests load: `python -m tests.models.page` writes it anew.

Each row is a small random model of the tests; what it says is what the engine found out about it when it was loaded.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from engine.models.decoder import Decoder
from engine.models.language_model import LanguageModel
from engine.models.load import load_language_model
from tests.models.tiny_gguf import ARCHITECTURES
from tests.tiny_models import FAMILIES, tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN = "<!-- made by `python -m tests.models.page`: everything down to the next such line -->"
END = "<!-- end of what is made -->"
HEADER = "| tested model | transformers' class | run by | its layers | fidelity | quantized GGUF |\n" + "|---" * 6 + "|"


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def table() -> str:
    return "\n".join([HEADER, *(row(family) for family in FAMILIES)])


def row(family: str) -> str:
    folder = tiny_model(family)
    model, _ = load_language_model(folder, device=torch.device("cpu"), dtype=torch.float32)
    (architecture,) = json.loads((folder / "config.json").read_text())["architectures"]
    cells = (
        f"`{family}`",
        f"`{architecture}`",
        "native decoder" if isinstance(model, Decoder) else "transformers",
        "; ".join(particulars(model)) or "all alike",
        "exact, auto, instant" if model.exact_only is None else f"exact: {model.exact_only}",
        "tested" if family in ARCHITECTURES else "",
    )
    return f"| {' | '.join(cells)} |"


def particulars(model: LanguageModel) -> list[str]:
    """What sets the layers' attention apart from plain causal attention with one rotation."""
    layers = model.layers
    words = [
        (sum(spec.window is not None for spec in layers), "with a sliding window"),
        (sum(spec.rotary is None for spec in layers) if model.rotary else 0, "without RoPE"),
        (sum(spec.softcap is not None for spec in layers), "with capped scores"),
        (sum(spec.sinks is not None for spec in layers), "with sinks"),
    ]
    found = [f"{count} of {len(layers)} {what}" for count, what in words if count]
    if len(model.rotary) > 1:
        found.append(f"{len(model.rotary)} different RoPEs")
    if any(table.rotates_a_part for table in model.rotary):
        found.append("RoPE on a part of each head")
    if model.stateful:
        found.append("attention in only some, recurrent or convolutional ones beside")
    return found


if __name__ == "__main__":
    main()
