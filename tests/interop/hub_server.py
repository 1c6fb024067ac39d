"""A hub on this machine: what huggingface_hub asks when it lists, fetches, makes a repository, and uploads."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories as dictionaries of files; every commit replaces the one before."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.uploads: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.messages: list[str] = []
        hub = self

        class Handler(_Handler):
            owner = hub

        self.running = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.running = True
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop answering."""
        if self.running:
            self._server.shutdown()
            self._server.server_close()
            self.running = False


class _Handler(BaseHTTPRequestHandler):
    owner: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        if not self.owner.running:  # on a connection that was kept
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.owner.asked.append(f"{self.command} {path}")
        for pattern, answer in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found:
                answer(self, body, **found.groupdict())
                return
        self._missing("RepoNotFound")

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, values: Any) -> None:
        self._answer(200, json.dumps(values).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str) -> None:
        self._answer(404, b"{}", {"X-Error-Code": code, "X-Error-Message": f"there is none ({code})"})

    def _files(self, repo: str) -> dict[str, bytes] | None:
        files = self.owner.repositories.get(repo)
        if files is None:
            self._missing("RepoNotFound")
        return files

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo = "/".join(filter(None, (asked.get("organization"), asked["name"])))
        self.owner.repositories.setdefault(repo, {})
        self._json({"url": f"{self.owner.address}/{repo}"})

    def whoami(self, body: bytes) -> None:
        self._json({"name": "owner", "type": "user", "orgs": []})

    def validate(self, body: bytes) -> None:
        self._json({"errors": [], "warnings": []})

    def info(self, body: bytes, repo: str) -> None:
        files = self._files(repo)
        if files is not None:
            self._json({"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files], "tags": []})

    def tree(self, body: bytes, repo: str) -> None:
        files = self._files(repo)
        if files is not None:
            entries = [(name, len(data), hashlib.sha1(data).hexdigest()) for name, data in files.items()]
            self._json([{"type": "file", "path": name, "size": size, "oid": oid} for name, size, oid in entries])

    def resolve(self, body: bytes, repo: str, name: str) -> None:
        files = self._files(repo)
        if files is None:
            return
        if name not in files:
            self._missing("EntryNotFound")
            return
        etag = hashlib.sha1(files[name]).hexdigest()
        self._answer(200, files[name], {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def preupload(self, body: bytes, repo: str) -> None:
        names = [file["path"] for file in json.loads(body)["files"]]
        modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
        self._json({"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]})

    def batch(self, body: bytes, repo: str) -> None:
        wanted = json.loads(body)["objects"]
        places = {entry["oid"]: {"upload": {"href": f"{self.owner.address}/lfs/{entry['oid']}"}} for entry in wanted}
        self._json({"transfer": "basic", "objects": [{**entry, "actions": places[entry["oid"]]} for entry in wanted]})

    def lfs(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.owner.uploads[oid] = body
        self._answer(200)

    def commit(self, body: bytes, repo: str) -> None:
        files = self._files(repo)
        if files is None:
            return
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.owner.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.owner.uploads[value["oid"]]
        self._json({"commitUrl": f"{self.owner.address}/{repo}/commit/{COMMIT}", "commitOid": COMMIT})


_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_ROUTES = (
    (r"/api/repos/create", _Handler.create),
    (r"/api/validate-yaml", _Handler.validate),
    (r"/api/whoami-v2", _Handler.whoami),
    (rf"/api/models/{_REPO}/tree/[^/]+", _Handler.tree),
    (rf"/api/models/{_REPO}/preupload/[^/]+", _Handler.preupload),
    (rf"/api/models/{_REPO}/commit/[^/]+", _Handler.commit),
    (rf"/api/models/{_REPO}(/revision/[^/]+)?", _Handler.info),
    (rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    (rf"/{_REPO}/resolve/[^/]+/(?P<name>.+)", _Handler.resolve),
    (r"/lfs/(?P<oid>\w+)", _Handler.lfs),
)
