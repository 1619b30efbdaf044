"""Builds engine/native's C for the instruction sets of this machine's architecture; all else is in pyproject.toml.

The compiler is Zig's clang, which pip brings as a package, so none has to be installed; CTX_LSP_CC names another one.
Where nothing can be compiled the engine does all in torch.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

SOURCES = Path("engine/native/src")
# the names that engine.native.library looks for, with what Zig and what GCC call the instructions
LEVELS = {
    "x86_64": {
        "x86_64-avx512bf16": ("x86_64_v4+avx512vnni+avx512bf16", "-march=x86-64-v4 -mavx512vnni -mavx512bf16"),
        "x86_64-avx512vnni": ("x86_64_v4+avx512vnni", "-march=x86-64-v4 -mavx512vnni"),
        "x86_64-avx2": ("x86_64_v3", "-march=x86-64-v3"),
        "x86_64": ("x86_64", ""),
    },
}
FLAGS = (
    "-std=gnu11 -O3 -fPIC -shared -Wall -Wextra -Wno-psabi -fno-math-errno -fno-trapping-math -fno-signed-zeros "
    "-ffp-contract=fast -fno-sanitize=all"
)


def levels() -> dict[str, tuple[str, str]]:
    machine = {"AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    return LEVELS.get(machine, {machine: ("native", "")})


class BuildNative(build_ext):
    """Compiles each level to a plain shared library: Python loads it by ctypes."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extension(self, extension: Extension) -> None:
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        zig, gcc = levels()[extension.name.split("ctx_native-")[1]]
        compiler = shlex.split(os.environ.get("CTX_LSP_CC", ""))
        command = [*compiler, *shlex.split(gcc)] if compiler else [sys.executable, "-m", "ziglang", "cc", *_target(zig)]
        command += [*FLAGS.split(), *extension.sources, "-lpthread", "-lm", "-o", str(target)]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CompileError(str(error)) from error


class AnyPython(bdist_wheel):
    """The libraries know nothing of Python, so one wheel serves all versions of it."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def _target(cpu: str) -> list[str]:
    """For Linux with any C library that is not older than that of a manylinux_2_28 wheel."""
    machine = platform.machine()
    return [*(["-target", f"{machine}-linux-gnu.2.28"] if sys.platform == "linux" else []), f"-mcpu={cpu}"]


setup(
    ext_modules=[
        Extension(f"engine.native.ctx_native-{name}", sorted(map(str, SOURCES.glob("*.c"))), optional=True)
        for name in levels()
    ],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": AnyPython},
)
