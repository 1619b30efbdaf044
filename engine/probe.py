"""`python -m engine.probe DEVICE DTYPE`: what this machine would compute with, as one line of JSON.

For callers that must not import torch themselves. Loads no model.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from engine.config import DType, EngineConfig
from engine.device import choose_device, choose_dtype
from engine.errors import EngineError


def probe(device: str, dtype: DType) -> dict[str, Any]:
    """`error` says why the device can't be used; what torch offers is there in any case."""
    config = EngineConfig(device=device, dtype=dtype)
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else range(0)
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpus": [
            {"name": torch.cuda.get_device_name(gpu), "bytes": torch.cuda.get_device_properties(gpu).total_memory}
            for gpu in gpus
        ],
        "threads": torch.get_num_threads(),
    }
    try:
        chosen = choose_device(config)
    except EngineError as error:
        return found | {"error": error.message}
    return found | {"device": str(chosen), "dtype": str(choose_dtype(config, chosen)).removeprefix("torch.")}


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1], sys.argv[2])))  # type: ignore[arg-type]  # EngineConfig refuses any other
