"""A Hugging Face hub on loopback, as `huggingface_hub` asks one."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import hashlib
import http.server
import json
import pathlib
import re
import threading

COMMITS = {"main": "a" * 40, "old": "b" * 40}


@dataclasses.dataclass
class Hub:
  """What it has, and what it was asked.

  Attributes:
    url: for HF_ENDPOINT.
    folders: `organization/name` to revision to the folder of its files.
    private: names that want TOKEN.
    asked: `METHOD path` of all requests, with `bytes=…` where a range.
    cut: a file's name to so many bytes, after which its connection ends, once.
  """

  url: str
  folders: dict[str, dict[str, pathlib.Path]]
  private: set[str] = dataclasses.field(default_factory=set)
  asked: list[str] = dataclasses.field(default_factory=list)
  cut: dict[str, int] = dataclasses.field(default_factory=dict)


TOKEN = "hf_loopback"


@contextlib.contextmanager
def serve(folders: dict[str, dict[str, pathlib.Path]]) -> Iterator[Hub]:
  """Serves models' files."""
  hub = Hub("", folders)

  class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the requests that a download makes."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *unused) -> None:
      pass

    def do_HEAD(self) -> None:
      self._answer()

    def do_GET(self) -> None:
      self._answer()

    def _refuse(self, status: int, code: str) -> None:
      self.send_response(status)
      self.send_header("X-Error-Code", code)
      self.send_header("X-Error-Message", code)
      self.send_header("Content-Length", "0")
      self.end_headers()

    def _answer(self) -> None:
      path = self.path.partition("?")[0]
      span = self.headers.get("Range", "")
      hub.asked.append(f"{self.command} {path} {span}".strip())
      found = re.fullmatch(
          r"/api/models/([^/]+/[^/]+)(?:/(?:revision|tree)/(.+))?", path) or (
              re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path))
      name = found and found[1]
      if name not in hub.folders or (
          name in hub.private
          and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
        self._refuse(401, "RepoNotFound")
        return
      asked = found[2] or "main"
      revision = next((r for r, commit in COMMITS.items()
                       if asked in (r, commit)), None)
      if revision not in hub.folders[name]:
        self._refuse(404, "RevisionNotFound")
        return
      folder = hub.folders[name][revision]
      if "/tree/" in path:
        self._send(json.dumps([{
            "type": "file", "path": p.name, "size": p.stat().st_size,
            "oid": hashlib.sha1(p.read_bytes()).hexdigest()}
                               for p in sorted(folder.iterdir())]).encode(), {})
        return
      if path.startswith("/api/"):
        self._send(json.dumps({
            "_id": "1", "id": name, "modelId": name, "private": False,
            "sha": COMMITS[revision], "tags": [], "downloads": 0, "likes": 0,
            "siblings": [{"rfilename": p.name}
                         for p in sorted(folder.iterdir())]}).encode(), {})
        return
      file = folder / found[3]
      data = file.read_bytes()
      self._send(data, {
          "X-Repo-Commit": COMMITS[revision],
          "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
          "Accept-Ranges": "bytes"}, span, hub.cut.get(file.name))

    def _send(self, data: bytes, headers, span: str = "",
              cut: int | None = None) -> None:
      start = int(re.match(r"bytes=(\d+)", span)[1]) if span else 0
      self.send_response(206 if span else 200)
      if span:
        headers = {**headers, "Content-Range":
                   f"bytes {start}-{len(data) - 1}/{len(data)}"}
      for key, value in headers.items():
        self.send_header(key, value)
      self.send_header("Content-Length", str(len(data) - start))
      self.end_headers()
      if self.command == "HEAD":
        return
      if cut is not None and cut > start:
        self.wfile.write(data[start:cut])
        self.close_connection = True
        hub.cut.clear()
        return
      self.wfile.write(data[start:])

  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  hub.url = f"http://127.0.0.1:{server.server_port}"
  threading.Thread(target=server.serve_forever, daemon=True).start()
  try:
    yield hub
  finally:
    server.shutdown()
    server.server_close()
