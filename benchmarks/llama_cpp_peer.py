"""Prefill and decoding by llama.cpp out of a Python package: a JSON line of what it is, then one per context length.

`PYTHON -m benchmarks.llama_cpp_peer PACKAGE --model GGUF --threads 2 --contexts 512`; benchmarks.decode runs it, in an
interpreter that has the package. Knows nothing of this engine nor of torch: it imports the standard library and the
package alone.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from itertools import pairwise
from statistics import median
from typing import Any

_WARM_UP = 4
_WARM_UP_PROMPT = 64
_ROOM = 64
_VOCABULARY = range(100, 20_000)
"""Ids that every model has as plain tokens; what they say makes no difference to how fast they are."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.llama_cpp_peer", description=__doc__)
    parser.add_argument("package", choices=_PACKAGES)
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--contexts", nargs="+", type=int, required=True)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--flash-attention", action="store_true")
    given = parser.parse_args(arguments)
    package = import_module(given.package)
    _print(about=f"{given.package} {package.__version__}: {' '.join(features(_system(package)))}")
    for context, prefill, arrivals in _PACKAGES[given.package](package, given):
        gaps = [later - earlier for earlier, later in pairwise(arrivals)]
        _print(context=context, prefill=prefill, median=median(gaps), mean=sum(gaps) / len(gaps))
    return 0


def features(system: str) -> list[str]:
    """What llama.cpp says that it uses of the processor, e.g. of ``CPU : AVX2 = 1 | AVX512 = 0 | OPENMP = 1 |``."""
    entries = (entry.rpartition(":")[2].split("=") for entry in system.split("|"))
    return [entry[0].strip() for entry in entries if len(entry) == 2 and entry[1].strip() != "0"]


def _system(package: Any) -> str:
    if hasattr(package, "get_system_info"):
        return str(package.get_system_info())
    return str(package.llama_print_system_info().decode())


def _prompt(tokens: int) -> list[int]:
    draw = random.Random(tokens)
    return [draw.choice(_VOCABULARY) for _ in range(tokens)]


def _by_llama_cpp(package: Any, given: argparse.Namespace) -> Iterator[tuple[int, float, list[float]]]:
    """llama-cpp-python: the prompt in one call, then a call per token, and the likeliest of its logits the next."""
    model = package.Llama(
        given.model,
        n_ctx=max(given.contexts) + given.tokens + _ROOM,
        n_threads=given.threads,
        n_threads_batch=given.threads,
        flash_attn=given.flash_attention,
        verbose=False,
    )
    arrays: Any = import_module("numpy")

    def step(token: int) -> int:
        model.eval([token])
        logits = package.llama_get_logits_ith(model.ctx, -1)
        return int(arrays.ctypeslib.as_array(logits, (model.n_vocab(),)).argmax())

    model.eval(_prompt(_WARM_UP_PROMPT))
    for context in given.contexts:
        model.reset()
        start = time.perf_counter()
        model.eval(_prompt(context))
        prefill = context / (time.perf_counter() - start)
        yield context, prefill, _arrivals(step, given.tokens)


def _arrivals(step: Callable[[int], int], tokens: int) -> list[float]:
    """When each of so many tokens was there, and the last one that isn't counted."""
    token = _VOCABULARY[0]
    for _ in range(_WARM_UP):
        token = step(token)
    times = [time.perf_counter()]
    for _ in range(tokens):
        token = step(token)
        times.append(time.perf_counter())
    return times


def _by_xllamacpp(package: Any, given: argparse.Namespace) -> Iterator[tuple[int, float, list[float]]]:
    """xllamacpp: llama.cpp's own server without its HTTP, each token as it hands it out."""
    server = package.Server(_parameters(package, given))
    _complete(server, _prompt(_WARM_UP_PROMPT), _WARM_UP)
    for context in given.contexts:
        arrivals, last = _complete(server, _prompt(context), _WARM_UP + given.tokens + 1)
        # the last piece comes together with the end
        yield context, last["timings"]["prompt_per_second"], arrivals[_WARM_UP : _WARM_UP + given.tokens + 1]


def _parameters(package: Any, given: argparse.Namespace) -> Any:
    parameters = package.CommonParams()
    parameters.model.path = given.model
    parameters.n_ctx = max(given.contexts) + given.tokens + _ROOM
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = given.threads
    kinds = package.llama_flash_attn_type
    parameters.flash_attn_type = (
        kinds.LLAMA_FLASH_ATTN_TYPE_ENABLED if given.flash_attention else kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    return parameters


def _complete(server: Any, prompt: Sequence[int], tokens: int) -> tuple[list[float], dict[str, Any]]:
    """When each piece of the answer came, and the last one, which has the server's own timings."""
    arrivals, pieces = list[float](), list[dict[str, Any]]()

    def take(piece: dict[str, Any]) -> None:
        arrivals.append(time.perf_counter())
        pieces.append(piece)

    request = {"prompt": list(prompt), "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    server.handle_completions({**request, "cache_prompt": False, "stream": True}, take)
    return arrivals, pieces[-1]


def _print(**found: Any) -> None:
    print(json.dumps(found), flush=True)


_PACKAGES = {"llama_cpp": _by_llama_cpp, "xllamacpp": _by_xllamacpp}

if __name__ == "__main__":
    sys.exit(main())
