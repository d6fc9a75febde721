"""A stand-in of a model hub: a local server that answers the calls of an upload and keeps what came.

It speaks what huggingface_hub uses without xet: who am I, repository facts and files, creation, the check
of a card's metadata, LFS uploads and commits.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from huggingface_hub import ModelCard, close_session, constants

# The client's own question, and the store of objects, whose addresses are signed on a real hub.
UNSIGNED = ("/api/agent-harnesses", "/objects/")


@dataclass
class Repository:
    """A repository: who may see it, and its files."""

    private: bool = True
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def card(self) -> ModelCard:
        return ModelCard(self.files["README.md"].decode())


@dataclass
class Hub:
    """What the server knows, and what it was asked.

    Attributes:
        repositories: by name.
        user: whose token it is.
        organizations: of the user.
        role: of the token: read, write or fineGrained.
        large: endings of files that go to the store of objects.
        refused: a part of a path -> the status that it is answered with.
        calls: method and path of every request to the hub itself.
        tokens: that came with them.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    user: str = "me"
    organizations: tuple[str, ...] = ("org",)
    role: str = "write"
    large: tuple[str, ...] = (".safetensors", ".onnx")
    refused: dict[str, int] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    objects: dict[str, bytes] = field(default_factory=dict)
    address: str = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON of a request."""
        for part, status in self.refused.items():
            if part in path:
                return status, {"error": "refused by the test"}
        for pattern, reply in self._routes(method):
            if found := re.fullmatch(pattern, path):
                return reply(*found.groups(), body)
        return 404, {"error": f"the stand-in does not know {method} {path}"}

    def _routes(self, method: str) -> list[tuple[str, Any]]:
        name = "([^/]+/[^/]+)"
        return {
            "GET": [
                ("/api/whoami-v2", self._whoami),
                (f"/api/models/{name}", self._facts),
                (f"/api/models/{name}/tree/main", self._tree),
            ],
            "POST": [
                ("/api/repos/create", self._create),
                ("/api/validate-yaml", self._validate),
                (f"/api/models/{name}/preupload/main", self._preupload),
                (f"/{name}.git/info/lfs/objects/batch", self._batch),
                (f"/api/models/{name}/commit/main", self._commit),
            ],
            "PUT": [("/objects/([0-9a-f]+)", self._keep)],
        }[method]

    def _whoami(self, _body: bytes) -> tuple[int, dict[str, Any]]:
        orgs = [{"name": name, "type": "org"} for name in self.organizations]
        token = {"accessToken": {"displayName": "test", "role": self.role}}
        return 200, {"type": "user", "name": self.user, "orgs": orgs, "auth": token}

    def _facts(self, name: str, _body: bytes) -> tuple[int, dict[str, Any]]:
        if name not in self.repositories:
            return 404, {"error": "Repository not found", "code": "RepoNotFound"}
        found = self.repositories[name]
        siblings = [{"rfilename": path} for path in found.files]
        return 200, {"id": name, "private": found.private, "siblings": siblings, "sha": "0" * 40}

    def _tree(self, name: str, _body: bytes) -> tuple[int, Any]:
        files = self.repositories[name].files
        return 200, [
            {"type": "file", "path": path, "size": len(content), "oid": "1" * 40}
            for path, content in files.items()
        ]

    def _create(self, body: bytes) -> tuple[int, dict[str, Any]]:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.repositories:
            return 409, {
                "error": "You already created this model repo",
                "url": f"{self.address}/{name}",
            }
        # A hub makes a repository public unless told otherwise.
        private = asked.get("private", asked.get("visibility") == "private")
        self.repositories[name] = Repository(private, {".gitattributes": b"*.safetensors lfs"})
        return 200, {"url": f"{self.address}/{name}", "name": name}

    def _validate(self, body: bytes) -> tuple[int, dict[str, Any]]:
        head = json.loads(body)["content"].split("---")[1]
        try:
            yaml.safe_load(head)
        except yaml.YAMLError as error:
            return 400, {"errors": [{"message": str(error)}], "warnings": []}
        return 200, {"errors": [], "warnings": []}

    def _preupload(self, _name: str, body: bytes) -> tuple[int, dict[str, Any]]:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(self.large) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        return 200, {"files": files}

    def _batch(self, _name: str, body: bytes) -> tuple[int, dict[str, Any]]:
        objects = [
            item | {"actions": {"upload": {"href": f"{self.address}/objects/{item['oid']}"}}}
            for item in json.loads(body)["objects"]
        ]
        return 200, {"transfer": "basic", "objects": objects}

    def _keep(self, oid: str, body: bytes) -> tuple[int, dict[str, Any]]:
        self.objects[oid] = body
        return 200, {}

    def _commit(self, name: str, body: bytes) -> tuple[int, dict[str, Any]]:
        files = self.repositories[name].files
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
        return 200, {"commitUrl": f"{self.address}/{name}/commit/1", "commitOid": "1" * 40}


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _respond(self) -> None:
            path = urlsplit(self.path).path
            if not path.startswith(UNSIGNED):
                hub.calls.append(f"{self.command} {path}")
                hub.tokens.add(self.headers.get("Authorization"))
            status, found = hub.answer(self.command, path, self._body())
            content = json.dumps(found).encode()
            self.send_response(status)
            if isinstance(found, dict) and "code" in found:
                self.send_header("X-Error-Code", found["code"])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        do_GET = do_POST = do_PUT = _respond  # noqa: N815

        def log_message(self, *_given: Any) -> None:
            pass

    return Handler


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Start a hub, and let huggingface_hub talk to it with a token instead of being offline."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    try:
        yield hub
    finally:
        close_session()
        server.shutdown()
        server.server_close()
        thread.join()
