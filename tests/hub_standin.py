"""A hub on loopback with as much of the real ones' HTTP interface as a push and a pull of one folder need.

Files are kept in memory by repository. Small files only: it asks for them inline in the commit. A repository
with a file `.gated` answers that its terms must be accepted. ModelScope's list and files are there too.
"""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serving():
    """Run the stand-in; gives its address and the dict of repositories: name → path → content."""
    repositories: dict[str, dict[str, bytes]] = {}
    handler = type("Handler", (_Handler,), {"repositories": repositories})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", repositories
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repositories: dict[str, dict[str, bytes]]

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = "/".join(part for part in (wanted.get("organization"), wanted["name"]) if part)
            self.repositories.setdefault(name, {})
            self.answer({"url": f"http://{self.headers['Host']}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif path.endswith("/commit/main"):
            repository_name = path.removeprefix("/api/models/").removesuffix("/commit/main")
            repository = self.repositories[repository_name]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    repository[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(
                {
                    "commitUrl": f"http://{self.headers['Host']}/{repository_name}/commit/{COMMIT}",
                    "commitOid": COMMIT,
                    "success": True,
                }
            )
        else:
            self.answer({"error": f"no {path}"}, status=404)

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/v1/models/"):
            return self.list_of_modelscope("/".join(path.split("/")[4:6]))
        if path.startswith("/models/"):
            _, _, owner, name, _, _, file = path.split("/", 6)
            return self.send(self.repositories[f"{owner}/{name}"][file], 200, {})
        if path.startswith("/api/models/"):
            name = "/".join(path.split("/")[3:5])
            if ".gated" in self.repositories.get(name, {}):
                return self.answer({"error": "Access is restricted"}, 403, {"X-Error-Code": "GatedRepo"})
            if name not in self.repositories:
                return self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            entries = [
                {"rfilename": file, "path": file, "type": "file", "size": len(content), "oid": _oid(content)}
                for file, content in self.repositories[name].items()
            ]
            if "/tree/" in path:
                return self.answer(entries)
            return self.answer(
                {"id": name, "modelId": name, "sha": COMMIT, "siblings": entries, "private": True}
            )
        if path.startswith("/api/"):
            return self.answer({"name": "someone", "type": "user"})
        owner, name, *_, file = path.lstrip("/").split("/", 4)
        content = self.repositories.get(f"{owner}/{name}", {}).get(file)
        if content is None:
            return self.answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        return self.send(content, 200, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": COMMIT})

    def list_of_modelscope(self, name):
        if name not in self.repositories:
            return self.answer({"Code": 10010205001, "Message": "not found"}, 404)
        files = [
            {"Path": path, "Type": "blob", "Size": len(file), "Sha256": hashlib.sha256(file).hexdigest()}
            for path, file in self.repositories[name].items()
        ]
        if ".gated" in self.repositories[name]:
            return self.answer({"Code": 403, "Message": "no access"}, 403)
        folders = [{"Path": "unet", "Type": "tree", "Size": 0, "Sha256": ""}]
        return self.answer({"Code": 200, "Data": {"Files": [*folders, *files]}, "Success": True})

    do_HEAD = do_GET  # noqa: N815 (the base class names it)

    def answer(self, content, status=200, headers=None):
        self.send(
            json.dumps(content).encode(), status, {"Content-Type": "application/json", **(headers or {})}
        )

    def send(self, content, status, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
