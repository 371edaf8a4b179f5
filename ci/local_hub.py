"""A hub of our own on localhost, for tests: repositories with revisions, as much of huggingface.co as its client asks.

`with LocalHub() as hub:` serves at `hub.url`; `hub.commit("owner/name", {"config.json": b"..."})` publishes, and what
clients push lands in `hub.repositories`.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


class LocalHub:
    """Attributes:
    repositories: name -> commit -> path -> content.
    branches: (name, branch) -> commit.
    gated: names whose files need an accepted licence.
    requests: (method, path) in the order they came.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Files]] = {}
        self.branches: dict[tuple[str, str], str] = {}
        self.gated: set[str] = set()
        self.requests: list[tuple[str, str]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "LocalHub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def commit(self, name: str, files: Files, branch: str = "main") -> str:
        """Publish `files` over what the branch holds; returns the commit."""
        held = {**self.files(name, branch), **files}
        sha = hashlib.sha1(repr((name, branch, sorted(held.items()))).encode()).hexdigest()
        self.repositories.setdefault(name, {})[sha] = held
        self.branches[name, branch] = sha
        return sha

    def commit_folder(self, name: str, folder: Path, branch: str = "main") -> str:
        """Publish every file of `folder`."""
        files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        return self.commit(name, files, branch)

    def files(self, name: str, revision: str = "main") -> Files:
        """Path -> content; empty where there is none."""
        return self.repositories.get(name, {}).get(self.branches.get((name, revision), revision), {})


def point_client_at(url: str, monkeypatch: Any, cache: Path) -> None:
    """Make huggingface_hub, which reads its settings once, take `url` for the hub and `cache` for its folder."""
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", url)


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            self.hub.repositories.setdefault(name, {})
            self.hub.commit(name, {})
            return self.json({"url": f"{self.hub.url}/{name}", "id": name, "name": name})
        file = re.fullmatch(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", path)
        asked = re.fullmatch(r"/api/models/(?P<name>[^/]+/[^/]+)(/(?P<what>\w+)/(?P<revision>[^/]+))?.*", path)
        found = file or asked
        if found is None:
            return self.refuse("EntryNotFound")
        name, revision = found["name"], found["revision"] or "main"
        if name not in self.hub.repositories:
            return self.refuse("RepoNotFound")
        sha = self.hub.branches.get((name, revision), revision)
        if asked and asked["what"] == "branch":
            self.hub.branches[name, revision] = self.hub.branches[name, "main"]
            return self.json({})
        if sha not in self.hub.repositories[name]:
            return self.refuse("RevisionNotFound")
        files = self.hub.repositories[name][sha]
        return self.file(name, sha, files, file["path"]) if file else self.ask(asked, name, revision, sha, files, body)

    def file(self, name: str, sha: str, files: Files, path: str) -> None:
        if name in self.hub.gated:
            return self.refuse("GatedRepo", 403)
        if path not in files:
            return self.refuse("EntryNotFound")
        headers = {"ETag": f'"{_oid(files[path])}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        return self.reply(200, files[path], headers)

    def ask(self, asked: "re.Match[str]", name: str, revision: str, sha: str, files: Files, body: bytes) -> None:
        match asked["what"]:
            case "tree":
                listed = [
                    {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
                    for path, content in files.items()
                ]
                return self.json(listed)
            case "preupload":
                wanted = [file["path"] for file in json.loads(body)["files"]]
                modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in wanted]
                return self.json({"files": modes})
            case "commit":
                lines = [json.loads(line) for line in body.splitlines()]
                pushed = [line["value"] for line in lines if line["key"] == "file"]
                new = self.hub.commit(name, {f["path"]: base64.b64decode(f["content"]) for f in pushed}, revision)
                return self.json({"commitUrl": f"{self.hub.url}/{name}/commit/{new}", "commitOid": new})
            case _:
                siblings = [{"rfilename": path} for path in files]
                return self.json({"id": name, "sha": sha, "siblings": siblings, "private": False, "tags": []})

    def refuse(self, code: str, status: int = 404) -> None:
        self.reply(status, b"", {"X-Error-Code": code})

    def json(self, content: object) -> None:
        self.reply(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
