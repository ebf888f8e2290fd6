"""A small hub on loopback for huggingface_hub's own client, and a process that reads it with jaxrep.

The client reads ``HF_ENDPOINT`` when it is imported, so it runs in a process of its own.
"""

import base64
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
Files = dict[str, bytes]
ERRORS = {"RepoNotFound": 401, "RevisionNotFound": 404, "EntryNotFound": 404, "GatedRepo": 403}
"""Status by the code that the client reads."""


@dataclasses.dataclass
class Repository:
    """Files by commit, and commits by the name of a branch or tag."""

    commits: dict[str, Files] = dataclasses.field(default_factory=dict)
    refs: dict[str, str] = dataclasses.field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files: Files, ref: str = "main") -> str:
        content = b"".join(name.encode() + value for name, value in sorted(files.items()))
        sha = hashlib.sha1(f"{len(self.commits)}".encode() + content).hexdigest()
        self.commits[sha] = files
        self.refs[ref] = sha
        return sha


class Refusal(Exception):
    """An answer that is an error: a code of ``ERRORS`` or a status; and the name of a repository that exists."""


class Hub:
    """Serve repositories by kind and name: ``hub.models["org/name"]`` and ``hub.datasets``."""

    def __init__(self, token: str = ""):
        self.models, self.datasets = dict[str, Repository](), dict[str, Repository]()
        self.token, self.lfs = token, dict[str, bytes]()
        self.status = 0
        """A status with which each request is answered; 0: none."""
        self.requests: list[tuple[str, str, str]] = []
        """Method, path and authorization of each request."""
        self.sent = 0
        """Bytes of the contents that were sent."""
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fetched(self) -> set[str]:
        """Return the names of the files whose content was sent."""
        paths = (path.partition("?")[0] for method, path, _ in self.requests if method == "GET")
        return {path.split("/resolve/")[1].partition("/")[2] for path in paths if "/resolve/" in path}

    def push(self, folder: Path, name: str, ref: str = "main") -> str:
        """Commit the files of a folder to a model; return the commit."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return self.models.setdefault(name, Repository()).commit(files, ref)

    # Answers ----------------------------------------------------------------------------------------------------

    def find(self, kind: str, name: str, authorization: str) -> Repository:
        repository = getattr(self, kind).get(name)
        allowed = not self.token or authorization == f"Bearer {self.token}"
        if repository is None or (repository.private and not allowed):
            raise Refusal("RepoNotFound")
        return repository

    def at(self, repository: Repository, revision: str) -> tuple[str, Files]:
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            raise Refusal("RevisionNotFound")
        return commit, repository.commits[commit]

    def create(self, body: dict) -> dict:
        name = f"{body['organization']}/{body['name']}"
        if name in self.models:
            raise Refusal(409, name)
        self.models[name] = Repository()
        self.models[name].commit({})
        return {"url": f"{self.url}/{name}", "id": name, "name": name}

    def commit(self, name: str, lines: list[dict]) -> dict:
        repository = self.models[name]
        files = dict(repository.commits[repository.refs["main"]])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.lfs[value["oid"]]
        commit = repository.commit(files)
        return {"commitUrl": f"{self.url}/{name}/commit/{commit}", "commitOid": commit, "pullRequestUrl": None}

    def batch(self, objects: list[dict]) -> dict:
        actions = [
            {**each, "actions": {"upload": {"href": f"{self.url}/lfs/{each['oid']}", "header": {}}}} for each in objects
        ]
        return {"transfer": "basic", "objects": actions}


def _entry(path: str, content: bytes) -> dict:
    return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        authorization = self.headers.get("Authorization", "")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, self.path, authorization))
        try:
            if self.hub.status:
                raise Refusal(self.hub.status)
            path = urllib.parse.urlparse(self.path).path
            status, content, headers = 200, *self._content([*map(urllib.parse.unquote, path.split("/")[1:])], body)
            if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                first, last = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
                headers |= {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
                status, content = 206, content[first : last + 1]
            self.hub.sent += len(content) if self.command == "GET" else 0
        except Refusal as refusal:
            code, *name = refusal.args
            status = ERRORS.get(code, code)
            said = {"error": "refused", **({"url": f"{self.hub.url}/{name[0]}"} if name else {})}
            content, headers = json.dumps(said).encode(), {"X-Error-Code": str(code)} if code in ERRORS else {}
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _content(self, parts: list[str], body: bytes) -> tuple[bytes, dict[str, str]]:
        as_json = {"Content-Type": "application/json"}
        match parts:
            case ["lfs", oid]:
                self.hub.lfs[oid] = body
                return b"", {}
            case ["api", "validate-yaml"]:
                header = json.loads(body)["content"].split("---\n")[1]
                assert isinstance(yaml.safe_load(header), dict)
                return b'{"errors": [], "warnings": []}', as_json
            case ["api", "repos", "create"]:
                if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
                    raise Refusal(401)
                return json.dumps(self.hub.create(json.loads(body))).encode(), as_json
            case [organization, name, "info", "lfs", "objects", "batch"]:
                return json.dumps(self.hub.batch(json.loads(body)["objects"])).encode(), as_json
            case ["api", kind, organization, name, *rest]:
                return json.dumps(self._api(kind, f"{organization}/{name}", rest, body)).encode(), as_json
            case ["datasets", organization, name, "resolve", revision, *path]:
                return self._file("datasets", f"{organization}/{name}", revision, "/".join(path))
            case [organization, name, "resolve", revision, *path]:
                return self._file("models", f"{organization}/{name}", revision, "/".join(path))
        raise Refusal(404)

    def _api(self, kind: str, name: str, rest: list[str], body: bytes) -> object:
        repository = self.hub.find(kind, name, self.headers.get("Authorization", ""))
        match rest:
            case []:
                return {"id": name, "sha": repository.refs["main"], "siblings": []}
            case ["revision", *revision]:
                return {"id": name, "sha": self.hub.at(repository, "/".join(revision))[0], "siblings": []}
            case ["tree", revision, *below]:
                _, files = self.hub.at(repository, revision)
                start = "".join(f"{part}/" for part in below)
                inside = {path: content for path, content in files.items() if path.startswith(start)}
                if not inside:
                    raise Refusal("EntryNotFound")
                if "recursive=false" not in self.path:
                    return [_entry(path, content) for path, content in inside.items()]
                folders = {start + path[len(start) :].partition("/")[0] for path in inside} - inside.keys()
                children = [_entry(path, content) for path, content in inside.items() if "/" not in path[len(start) :]]
                return [*children, *({"type": "directory", "path": path, "size": 0, "oid": "0"} for path in folders)]
            case ["paths-info", revision]:
                _, files = self.hub.at(repository, revision)
                asked = urllib.parse.parse_qs(body.decode()).get("paths") or json.loads(body)["paths"]
                return [_entry(path, files[path]) for path in asked if path in files]
            case ["preupload", _]:
                asked = [file["path"] for file in json.loads(body)["files"]]
                modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in asked}
                return {"files": [{"path": p, "uploadMode": modes[p], "shouldIgnore": False} for p in asked]}
            case ["commit", _]:
                return self.hub.commit(name, [json.loads(line) for line in body.splitlines()])
        raise Refusal(404)

    def _file(self, kind: str, name: str, revision: str, path: str) -> tuple[bytes, dict[str, str]]:
        repository = self.hub.find(kind, name, self.headers.get("Authorization", ""))
        if repository.gated:
            raise Refusal("GatedRepo")
        commit, files = self.hub.at(repository, revision)
        if path not in files:
            raise Refusal("EntryNotFound")
        return files[path], {"ETag": f'"{hashlib.sha1(files[path]).hexdigest()}"', "X-Repo-Commit": commit}


LOOP = """
import contextlib, io, json, sys
import jaxrep.hub
from jaxrep import cli
for line in sys.stdin:
    words = io.StringIO()
    with contextlib.redirect_stdout(words), contextlib.redirect_stderr(words):
        try:
            result = repr(eval(line)) if not line.startswith("jaxrep ") else cli.main(json.loads(line[7:]))
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
    print(json.dumps([str(result), words.getvalue()]), flush=True)
"""


class Client:
    """A process that evaluates expressions and runs commands of jaxrep, with a hub and a cache of its own."""

    def __init__(self, hub: Hub, home: Path, **environment: str):
        names = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "JAX_PLATFORMS": "cpu"}
        others = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", LOOP],
            env={**others, **names, **environment, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, expression: str) -> str:
        """Return the value of an expression, or its error, as text."""
        return self._ask(expression)[0]

    def command(self, *args: str | Path) -> tuple[str, str]:
        """Run ``jaxrep ARGS``; return its status and all that it printed."""
        return self._ask(f"jaxrep {json.dumps([*map(str, args)])}")

    def _ask(self, line: str) -> tuple[str, str]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        result, words = json.loads(self._process.stdout.readline())
        return result, words

    def close(self) -> None:
        self._process.communicate()
