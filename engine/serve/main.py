"""The console script `ctx-engine`: one engine, served until nobody needs it.

Reads arguments, claims the runtime file, serves, cleans up. Knows the order of these, not their insides. Exit codes:
0 ended as asked or another engine already serves this, 1 the model failed to load or the process could not start,
2 wrong arguments.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from engine import __version__
from engine.config import DEFAULT_MODEL, Attention, EngineConfig, KVDType
from engine.errors import InvalidRequestError
from engine.serve import runtime_file
from engine.serve.claim import Claim, ClaimError, claim
from engine.serve.exposure import LOOPBACK, Exposure, ExposureError, expose
from engine.serve.loading import EngineHost, Progress
from engine.serve.runtime_file import RuntimeInfo

if TYPE_CHECKING:
    from engine.engine import Engine

logger = logging.getLogger(__name__)
_CLOSE_SECONDS = 30.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the process; returns its exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        config = _config(options)
        exposure = expose(options.host, options.allowed_host, options.token_file)
    except InvalidRequestError as error:
        parser.error(error.message)
    except ExposureError as error:
        parser.error(str(error))
    _start_logging(options.log_file, options.log_level)
    try:
        claimed = claim(options.runtime_file or runtime_file.runtime_path(config))
    except (ClaimError, OSError) as error:
        print(f"ctx-engine: {error}", file=sys.stderr)
        return 1
    if isinstance(claimed, RuntimeInfo):
        print(f"ctx-engine already serves {claimed.model} at {claimed.url} (process id {claimed.pid})")
        return 0
    with claimed:
        return _serve(config, claimed, exposure, options)


def _serve(config: EngineConfig, claimed: Claim, exposure: Exposure, options: argparse.Namespace) -> int:
    from engine.serve import server as http  # imports the web framework, which a second start doesn't need
    from engine.serve.services import Settings
    from engine.serve.stages import process_age

    try:
        listener = http.bind(options.port, exposure.host)
    except OSError as error:
        print(f"ctx-engine: can't listen on {exposure.host}, port {options.port}: {error}", file=sys.stderr)
        return 1
    url, token = http.address(listener), exposure.token
    info = RuntimeInfo(url, token, os.getpid(), config.model, __version__, time.time())
    host = EngineHost(partial(_load, config), config.model, age=process_age())
    server = http.Server(
        host,
        Settings(token, exposure.names, idle_timeout=options.idle_timeout),
        tidy=partial(runtime_file.keep, claimed.path, info),
        on_end=partial(runtime_file.remove, claimed.path, token),
    )
    with server.until_signal():
        try:
            runtime_file.write(claimed.path, info)
            logger.info("serving %s at %s, runtime file %s", config.model, url, claimed.path)
            server.run(sockets=[listener])
        finally:
            runtime_file.remove(claimed.path, token)
            _close(host)
    return 1 if host.failed else 0


def _load(config: EngineConfig, progress: Progress) -> Engine:
    """Build the real engine; importing it takes seconds, so the server is up before."""
    progress("importing the tensor library", None)
    _let_idle_threads_sleep()
    with _no_garbage_looked_for():
        from engine.engine import Engine

        return Engine(config, progress=progress)


def _let_idle_threads_sleep() -> None:
    """Before torch is imported: a thread that waits for another one at the end of a product spins 5,000 times, not
    300,000, before it sleeps.

    An editor, a language server or a compiler takes a core now and then. The thread it was taken from is then waited
    for by one that spins on the core where it could go on: with a core less, decoding takes not twice, but 50 times as
    long. Where all cores are free, threads are as quick as ever, which with 1,000 they are not.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")


@contextmanager
def _no_garbage_looked_for() -> Iterator[None]:
    """Modules and vocabularies are millions of objects that stay: to look through them again and again while they come
    is a sixth of the time that a small model takes to load.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _close(host: EngineHost) -> None:
    """Close the engine; where that can't end the process, end it the hard way: it must not outlive its file."""
    code = 1 if host.failed else 0
    watchdog = threading.Timer(_CLOSE_SECONDS, _exit_now, [1, "the engine did not stop in time"])
    watchdog.daemon = True
    watchdog.start()
    host.close()
    watchdog.cancel()
    if host.loading:
        _exit_now(code, "ended while the model was loading")  # native code on that thread can't be interrupted
    logger.info("ended")


def _exit_now(code: int, message: str) -> None:
    logger.warning("%s", message)
    logging.shutdown()
    os._exit(code)


def _config(options: argparse.Namespace) -> EngineConfig:
    return EngineConfig(
        model=runtime_file.absolute_model(options.model),
        device=options.device,
        dtype=options.dtype,
        kv_dtype=options.kv_dtype,
        attention=options.attention,
        tensor_parallel_size=options.tensor_parallel_size,
        kv_cache_tokens=options.kv_cache_tokens,
        max_context=options.max_context,
        threads=options.threads,
        speculation=options.speculation,
        quantized_decode=options.quantized_decode,
        latency_budget=options.latency_budget / 1000,
    )


def _start_logging(path: Path | None, level: str) -> None:
    logging.basicConfig(
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=[logging.FileHandler(path, encoding="utf-8") if path else logging.StreamHandler(sys.stderr)],
    )
    for name in ("httpx", "uvicorn", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ctx-engine", description=main.__doc__ and __doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default=DEFAULT_MODEL, help="catalogue name, folder, or GGUF file (default: %(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, … (default: %(default)s)")
    add("--dtype", default="auto", choices=("auto", "float32", "bfloat16"), help="of weights and KV")
    add("--kv-dtype", default="auto", choices=get_args(KVDType), help="of KV alone (default: the model's)")
    add("--attention", default="auto", choices=get_args(Attention), help="what attends (default: %(default)s)")
    add(
        "--tensor-parallel-size",
        type=int,
        default=1,
        metavar="N",
        help="GPUs that share a model which is too large for one (default: %(default)s)",
    )
    add("--kv-cache-tokens", type=int, metavar="N", help="size of the KV pool (default: a share of free memory)")
    add("--max-context", type=int, metavar="N", help="longest prompt plus answer, tokens (default: the model's)")
    add("--threads", type=int, metavar="N", help="most CPU threads for tensor work")
    add(
        "--no-speculation",
        dest="speculation",
        action="store_false",
        help="compute an answer's tokens one by one, even where it repeats what stands in the prompt",
    )
    add(
        "--no-quantized-decode",
        dest="quantized_decode",
        action="store_false",
        help="on a CPU, decode by the weights that prefill multiplies with, not by a GGUF's own quantized ones",
    )
    add(
        "--latency-budget",
        type=_not_negative,
        default=1000 * EngineConfig.latency_budget,
        metavar="MS",
        help="how long a question may wait for exact KV before it takes what is there (default: %(default)g)",
    )
    add(
        "--idle-timeout",
        type=_not_negative,
        default=600.0,
        metavar="SECONDS",
        help="end when no client has been there for so long; 0 means never (default: %(default)g)",
    )
    add("--runtime-file", type=Path, metavar="PATH", help="where to say how to be reached (default: by configuration)")
    add("--port", type=int, default=0, help="port to listen on (default: a free one)")
    add("--host", default=LOOPBACK, metavar="ADDRESS", help="listen there for other machines (default: %(default)s)")
    add(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that clients may call this host by, besides loopback and --host; may be repeated",
    )
    add("--token-file", type=Path, metavar="PATH", help="the token clients must send (default: a fresh one each time)")
    add("--log-file", type=Path, metavar="PATH", help="log there instead of to standard error")
    add("--log-level", default="info", choices=("debug", "info", "warning", "error"), help="(default: %(default)s)")
    add("--version", action="version", version=f"ctx-engine {__version__}")
    return parser
