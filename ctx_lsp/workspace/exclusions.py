"""What never comes into the context by itself, whatever the ignore files say: secrets, and what no person wrote.

Judges names and the first lines of texts; opens no file. Loading by name is not its business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from pathlib import Path, PurePath

HEAD_CHARS = 8192

_SECRET_FILES = """
.env .env.* *.env .envrc .netrc _netrc .npmrc .pypirc .pgpass .my.cnf .htpasswd .git-credentials .dockercfg .s3cfg .boto
.vault-token .terraformrc .yarnrc.yml *.pem *.key *.p8 *.p12 *.pfx *.jks *.keystore *.ppk *.kdbx *.gpg *.asc *.crt *.cer
*.der *.ovpn *.mobileprovision *.tfstate *.tfstate.backup *.tfvars *.kubeconfig kubeconfig
id_rsa* id_dsa* id_ecdsa* id_ed25519* credentials credentials.json credentials.y*ml credentials.toml credentials.ini
credentials.xml credentials.csv *-credentials.json *_credentials.json client_secret*.json service-account*.json
service_account*.json *-service-account.json secrets secrets.json secrets.y*ml secrets.toml secrets.ini *.secrets
"""
_NO_SECRET_FILES = ".env.example .env.sample .env.template .env.dist .env.defaults example.env sample.env *.pub"
_SECRET_FOLDERS = frozenset({".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".gcloud", "gcloud"})

_DULL_FILES = """
*.lock *-lock.json *-lock.yaml *.lockb go.sum *.min.js *.min.css *.min.mjs *.bundle.js *.map *.svg *.csv *.tsv *.jsonl
*.ipynb *.log *.snap *_pb2.py *_pb2_grpc.py *.pb.go *.g.dart *.generated.*
license license.txt license.md license-* copying copying.*
.gitignore .ctxignore .gitattributes .gitmodules .editorconfig
"""
_DULL_FOLDERS = frozenset(
    """
    node_modules bower_components jspm_packages vendor third_party site-packages dist-packages .venv venv .tox .nox
    .eggs .mypy_cache .pytest_cache .ruff_cache .hypothesis .cache .next .nuxt .svelte-kit .gradle .terraform .idea
    coverage htmlcov dist
    """.split()  # noqa: SIM905
)


def _any_of(names: str) -> re.Pattern[str]:
    return re.compile("|".join(translate(name) for name in names.split()))


_SECRET, _NO_SECRET, _DULL = map(_any_of, (_SECRET_FILES, _NO_SECRET_FILES, _DULL_FILES))
_PRIVATE_KEY = re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----")
_GENERATED = re.compile(r"@generated\b|\bcode generated\b.*\bdo not edit\b|\b(?:auto|automatically )generated\b", re.I)
_GENERATED_LINES = 5
_LONGEST_LINE = 2048
_FEWEST_SPACES = 0.08


def why_secret(path: PurePath) -> str | None:
    """By the names of a file and of the folders it is in."""
    name = path.name.lower()
    if _SECRET.match(name) and not _NO_SECRET.match(name):
        return "may hold secrets"
    return "may hold secrets" if _is_below(path, _SECRET_FOLDERS) else None


def why_dull(path: PurePath) -> str | None:
    """Vendored, generated or archival: text, but seldom what a question is about."""
    if _is_below(path, _DULL_FOLDERS):
        return "vendored or generated"
    return "generated, data, or boilerplate" if _DULL.match(path.name.lower()) else None


def is_dull_folder(name: str) -> bool:
    return name.lower() in _DULL_FOLDERS


def why_text(text: str) -> str | None:
    """By the beginning of a text."""
    head = text[:HEAD_CHARS]
    if _PRIVATE_KEY.search(head):
        return "holds a private key"
    if any(_GENERATED.search(line) for line in head.splitlines()[:_GENERATED_LINES]):
        return "generated: a marker in its first lines says so"
    return None


def is_dense(text: str) -> bool:
    """Whether it begins as no person writes: a paragraph's line may be as long, but has words. Only a guess."""
    lines = text[:HEAD_CHARS].splitlines()
    return any(len(line) > _LONGEST_LINE and line.count(" ") < len(line) * _FEWEST_SPACES for line in lines)


def below(path: Path, folders: Iterable[Path]) -> PurePath:
    """The path as seen from the innermost of the folders that hold it, so that no name above them counts."""
    holders = [folder for folder in folders if path.is_relative_to(folder)]
    return path.relative_to(max(holders, key=lambda folder: len(folder.parts))) if holders else path


def _is_below(path: PurePath, names: frozenset[str]) -> bool:
    return any(part.lower() in names for part in path.parts[:-1])
