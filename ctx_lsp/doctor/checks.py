"""What `ctx-lsp doctor` looks at on this machine: a function for each, from a configuration to findings.

Nothing here imports torch; what it can do, a process of its own tells. The engine's checks are in `engine`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ctx_lsp.client import logs
from ctx_lsp.state_folder import state_folder
from engine.config import EngineConfig
from engine.models import catalogue, fetch
from engine.models.catalogue import CatalogueModel, HubFile, Source
from engine.serve import runtime_file

State = Literal["ok", "warn", "fail"]

_OLDEST_PYTHON = (3, 11)
_PROBE_SECONDS = 180.0
_NETWORK_SECONDS = 15.0
_LOW_DISK_BYTES = 2 << 30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `advice` says what to do about it."""

    name: str
    state: State
    message: str
    advice: str | None = None


Check = Callable[[EngineConfig], Iterable[Finding]]


def python(_: EngineConfig) -> Iterator[Finding]:
    version = sys.version.split()[0]
    if sys.version_info < _OLDEST_PYTHON:
        yield Finding("Python", "fail", f"{version} is too old", "Install Python 3.11 or newer.")
    else:
        yield Finding("Python", "ok", f"{version}, {sys.executable}")


def packages(_: EngineConfig) -> Iterator[Finding]:
    """Those that this one asks for, each in a version that it asks for."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in importlib.metadata.requires("ctx-lsp") or ()]
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", "warn", "ctx-lsp runs from its source and is not installed", "pip install -e .")
        return
    wrong = [
        problem
        for need in wanted
        if (need.marker is None or need.marker.evaluate({"extra": ""})) and (problem := _package_problem(need))
    ]
    if wrong:
        yield Finding("packages", "fail", "; ".join(wrong), f"{sys.executable} -m pip install --upgrade ctx-lsp")
    else:
        yield Finding("packages", "ok", "all that are needed are here")


def _package_problem(need: object) -> str | None:
    from packaging.requirements import Requirement

    assert isinstance(need, Requirement)
    try:
        version = importlib.metadata.version(need.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{need.name} is missing"
    if need.specifier.contains(version, prereleases=True):
        return None
    return f"{need.name} {version} is not {need.specifier}"


def device(config: EngineConfig) -> Iterator[Finding]:
    """What torch computes with, asked in a process of its own."""
    command = [sys.executable, "-m", "engine.probe", config.device, config.dtype]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        advice = f"{sys.executable} -m pip install torch, as https://pytorch.org/get-started tells for your machine"
        yield Finding("torch", "fail", f"can't be used: {last}", advice)
        return
    found = json.loads(done.stdout.splitlines()[-1])
    cuda = f"CUDA {found['cuda']}" if found["cuda"] else "without CUDA"
    yield Finding("torch", "ok", f"{found['torch']}, {cuda}")
    if "error" in found:
        yield Finding("device", "fail", found["error"], "Choose another --device, or `auto`.")
        return
    gpus = ", ".join(f"{gpu['name']} with {gpu['bytes'] / 1e9:.0f} GB" for gpu in found["gpus"])
    where = gpus if found["device"].startswith("cuda") else f"{found['threads']} threads"
    yield Finding("device", "ok", f"{found['device']} in {found['dtype']} ({where})")


def model(config: EngineConfig) -> Iterator[Finding]:
    """Whether it is on this machine, else whether it can be fetched."""
    known = catalogue.find(config.model)
    if known is not None:
        yield from _catalogue_model(known)
        return
    from engine.models.hub_snapshot import is_complete
    from engine.models.resolve import HUB_ID

    path = Path(config.model).expanduser()
    advice = f"Name a folder of safetensors, a .gguf file, or one of {', '.join(catalogue.names())}."
    if path.is_file() and path.suffix.lower() == ".gguf":
        yield Finding("model", "ok", str(path))
    elif path.is_dir():
        complete = is_complete(path)
        message = str(path) if complete else f"{path} lacks config.json or *.safetensors files"
        yield Finding("model", "ok" if complete else "fail", message, None if complete else advice)
    elif HUB_ID.fullmatch(config.model):
        yield Finding("model", "ok", f"{config.model}, from the Hugging Face hub or its cache at first use")
    else:
        yield Finding("model", "fail", f"{config.model!r} is nothing that can be loaded", advice)


def _catalogue_model(known: CatalogueModel) -> Iterator[Finding]:
    if fetch.is_fetched(known):
        yield Finding("model", "ok", f"{known.name} is in {catalogue.model_folder(known)}")
        return
    failures: list[str] = []
    for source in known.sources:
        if (failure := _unreachable(source)) is None:
            size = f"{known.bytes / 1e6:,.0f} MB"
            yield Finding("model", "ok", f"{known.name}: {size} come from {source} at first use")
            return
        failures.append(f"{source}: {failure}")
    advice = (
        f"Where there is a network: ctx-lsp models fetch {known.name}. Or take a folder or .gguf file that you have."
    )
    yield Finding("model", "fail", f"{known.name} is not here and can't be fetched ({'; '.join(failures)})", advice)


def _unreachable(source: Source) -> str | None:
    """Why a source doesn't answer; None if it does."""
    if isinstance(source, HubFile):
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

        if constants.HF_HUB_OFFLINE:
            return "HF_HUB_OFFLINE is set"
        try:
            get_hf_file_metadata(hf_hub_url(source.repo, source.filename), timeout=_NETWORK_SECONDS)
        except Exception as error:  # of several libraries, without a common base
            return _first_line(str(error)) or type(error).__name__
        return None
    package = source.wheels[0].requirement.partition("==")[0]
    command = [sys.executable, "-m", "pip", "index", "versions", package, "--retries", "0", "--timeout", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_NETWORK_SECONDS * 2)
    return None if done.returncode == 0 else _first_line(done.stderr) or "pip could not ask for it"


def loopback(_: EngineConfig) -> Iterator[Finding]:
    """Server and engine talk over it."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            socket.create_connection(listener.getsockname(), timeout=5).close()
    except OSError as error:
        advice = "Let programs of this user listen on 127.0.0.1 and connect to it: look for a firewall or a sandbox."
        yield Finding("loopback", "fail", str(error), advice)
    else:
        yield Finding("loopback", "ok", "ports on 127.0.0.1 can be had and reached")


def folders(_: EngineConfig) -> Iterator[Finding]:
    """Those that the server and the engine write to."""
    places = {
        "runtime": (runtime_file.runtime_dir(), runtime_file.FOLDER_VARIABLE),
        "state": (state_folder(), "CTX_LSP_STATE_DIR"),
        "log": (logs.folder(), "CTX_LSP_STATE_DIR"),
        "models": (catalogue.cache_root(), catalogue.CACHE_ENV),
    }
    for name, (folder, variable) in places.items():
        try:
            runtime_file.prepare_folder(folder)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            advice = f"Make {folder} yours and writable, or set {variable} to another folder."
            yield Finding(f"{name} folder", "fail", str(error), advice)
        else:
            yield Finding(f"{name} folder", "ok", str(folder))


def disk(config: EngineConfig) -> Iterator[Finding]:
    """Room for the model, which is kept as it came and as it is loaded."""
    folder = catalogue.cache_root()
    at = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(at).free
    known = catalogue.find(config.model)
    needed = 0 if known is None or fetch.is_fetched(known) else known.bytes
    message = f"{free / 1e9:,.1f} GB are free for models"
    advice = f"Make room, or set {catalogue.CACHE_ENV} to a folder on another disk."
    if free < needed + fetch.DISK_RESERVE:
        yield Finding("disk", "fail", f"{message}, {needed / 1e9:,.1f} GB are needed", advice)
    elif free < needed + _LOW_DISK_BYTES:
        yield Finding("disk", "warn", message, advice)
    else:
        yield Finding("disk", "ok", message)


def command(_: EngineConfig) -> Iterator[Finding]:
    """What an editor has to start."""
    found, ours = shutil.which("ctx-lsp"), Path(sys.executable).with_name("ctx-lsp")
    if found is None:
        start = f"{ours} serve" if ours.exists() else f"{sys.executable} -m ctx_lsp"
        advice = f"Have your editor start `{start}`, or put that folder on PATH."
        yield Finding("command", "warn", "`ctx-lsp` is not on PATH", advice)
    elif ours.exists() and not os.path.samefile(found, ours):
        advice = f"Have your editor start `{ours} serve` if it should be this one."
        yield Finding("command", "warn", f"`ctx-lsp` on PATH is another one: {found}", advice)
    else:
        yield Finding("command", "ok", f"editors start `{found} serve`")


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")


CHECKS: tuple[Check, ...] = (python, packages, device, model, loopback, folders, disk, command)
CHECKS_WITHOUT_ENGINE: tuple[Check, ...] = (python, packages, folders, command)
"""What matters where the model is elsewhere."""
