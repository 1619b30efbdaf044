"""Where the speed of a model on a device is kept between runs. Knows nothing of what is in the file."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import torch

from engine.model import LoadedModel
from engine.models.catalogue import cache_root

FOLDER_VARIABLE = "CTX_LSP_SPEED_DIR"


def speed_file(model: LoadedModel) -> Path | None:
    """The file for this model, devices, dtypes and number of threads; None where no folder for it can be found."""
    cuda = model.device.type == "cuda"
    device = torch.cuda.get_device_name(model.device) if cuda else f"{platform.machine()} {torch.get_num_threads()}"
    if model.followers is not None:
        device = f"{model.followers.group.size} {device}"
    key = hashlib.sha256(f"{model.fingerprint.hex()} {device} {torch.__version__}".encode()).hexdigest()[:16]
    folder = os.environ.get(FOLDER_VARIABLE)
    try:
        return (Path(folder) if folder else cache_root().parent / "speed") / f"{key}.json"
    except ImportError:
        return None
