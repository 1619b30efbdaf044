"""llama.cpp's own HTTP server out of the wheel `xllamacpp`; what the command line doesn't say is as it is by default.

`PYTHON -m benchmarks.llama_server --model GGUF --port N --threads 2`; benchmarks.server_trace runs it in an interpreter
that has the package. It imports the standard library and the package alone.
"""

from __future__ import annotations

import argparse
import signal
import threading
from importlib import import_module
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.llama_server", description=__doc__)
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--cache-reuse", type=int, default=0, help="as llama-server's option")
    given = parser.parse_args()
    package = import_module("xllamacpp")
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    server = package.Server(_parameters(package, given))
    print(server.listening_address, flush=True)
    ended.wait()


def _parameters(package: Any, given: argparse.Namespace) -> Any:
    parameters = package.CommonParams()
    parameters.model.path = given.model
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = given.port
    parameters.n_ctx = given.context
    parameters.n_parallel = 1
    parameters.n_cache_reuse = given.cache_reuse
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = given.threads
    return parameters


if __name__ == "__main__":
    main()
