"""A hub on this machine, of a data set and maybe a model: what `datasets` and `huggingface_hub` ask
of the real one, answered."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(
    name: str, files: dict[str, bytes], model: str = "", weights: dict[str, bytes] | None = None
) -> Iterator[str]:
    """The address of a hub that has the data set `name` with these files, and a model."""
    repositories = {f"datasets/{name}": files, f"models/{model}": weights or {}}

    def info(path: str) -> bytes:
        held = repositories[path]
        said = {
            "id": path.partition("/")[2], "sha": COMMIT, "private": False, "gated": False,
            "disabled": False, "tags": [], "downloads": 0, "likes": 0,
            "lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z",
            "siblings": [{"rfilename": one} for one in held],
        }  # fmt: skip
        return json.dumps(said).encode()

    def entry(files: dict[str, bytes], path: str) -> dict[str, object]:
        data = files[path]
        return {"type": "file", "path": path, "size": len(data), "oid": sha1(data).hexdigest()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, body: bytes, head: bool = False, **headers: str) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if not head:
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET(head=True)

        def do_GET(self, head: bool = False) -> None:
            path = unquote(urlsplit(self.path).path)
            asked = path if path.startswith(("/api/", "/datasets/")) else f"/models{path}"
            held = next((one for one in repositories if f"/{one}/" in f"{asked}/"), "")
            files, api = repositories.get(held, {}), f"/api/{held}"
            found = re.fullmatch(rf"/{held}/resolve/[^/]+/(.+)", asked)
            if found and found[1] in files:
                data = files[found[1]]
                etag = f'"{sha1(data).hexdigest()}"'
                part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                if part:
                    first, end = int(part[1]), int(part[2] or len(data) - 1)
                    where = f"bytes {first}-{end}/{len(data)}"
                    body = data[first : end + 1]
                    said = {"Content_Range": where, "X_Repo_Commit": COMMIT}
                    self.answer(206, body, head, ETag=etag, **said)
                else:
                    self.answer(200, data, head, ETag=etag, X_Repo_Commit=COMMIT)
            elif path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
                self.answer(200, info(held), head, Content_Type="application/json")
            elif path.startswith(f"{api}/tree/{COMMIT}") or path.startswith(f"{api}/tree/main"):
                below = path.partition("/tree/")[2].partition("/")[2]
                inside = [one for one in files if one.startswith(f"{below}/" if below else "")]
                listed = []
                for one in inside:
                    rest = one[len(below) + 1 if below else 0 :]
                    folder = {"type": "directory", "path": rest.partition("/")[0], "oid": COMMIT}
                    here = entry(files, one) if "/" not in rest else folder | {"size": 0}
                    if here not in listed:
                        listed.append(here)
                self.answer(200, json.dumps(listed).encode(), head, Content_Type="application/json")
            else:
                code = "EntryNotFound" if held else "RepoNotFound"
                self.answer(404, b"{}", head, X_Error_Code=code)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
