"""A stand-in for Google Cloud Storage on this machine, for tests.

TensorFlow asks `https://*.googleapis.com` whatever its settings, TensorStore
likewise by default: both go through `https_proxy`. This is that proxy, and the
two hosts behind it, with a certificate of its own. What is stored is in
memory. It knows as much of the JSON interface as the two libraries use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import email.parser
import http.server
import json
import pathlib
import re
import ssl
import subprocess
import threading
from typing import Any
import urllib.parse

_HOSTS = ("storage.googleapis.com", "www.googleapis.com")
_TIME = "2024-01-01T00:00:00.000Z"


def _certificate(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  key, certificate = folder / "key.pem", folder / "certificate.pem"
  subprocess.run(
      ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
       "-keyout", key, "-out", certificate, "-subj", "/CN=stand-in",
       "-addext", "subjectAltName=" + ",".join(f"DNS:{h}" for h in _HOSTS)],
      check=True, capture_output=True)
  return key, certificate


class Store:
  """Objects by (bucket, name), and what was asked.

  Attributes:
    objects: (bucket, name) -> (content, generation).
    requests: (method, path) in their order.
    denied: buckets that answer 403.
  """

  def __init__(self):
    self.objects: dict[tuple[str, str], tuple[bytes, int]] = {}
    self.requests: list[tuple[str, str]] = []
    self.denied: set[str] = set()
    self._uploads: dict[str, tuple[str, str, bytearray]] = {}
    self._generation = 0
    self._lock = threading.Lock()

  def put(self, bucket: str, name: str, data: bytes) -> Mapping[str, Any]:
    with self._lock:
      self._generation += 1
      self.objects[bucket, name] = bytes(data), self._generation
    return self.describe(bucket, name)

  def describe(self, bucket: str, name: str) -> Mapping[str, Any]:
    data, generation = self.objects[bucket, name]
    return {"kind": "storage#object", "bucket": bucket, "name": name,
            "size": str(len(data)), "generation": str(generation),
            "metageneration": "1", "updated": _TIME, "timeCreated": _TIME}

  def list(self, bucket: str, query: Mapping[str, str]) -> Mapping[str, Any]:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
    start, end = query.get("startOffset", ""), query.get("endOffset")
    items, prefixes = [], set()
    for key, name in sorted(self.objects):
      if key != bucket or not name.startswith(prefix) or name < start or (
          end and name >= end):
        continue
      rest = name[len(prefix):]
      if delimiter and delimiter in rest:
        prefixes.add(prefix + rest.partition(delimiter)[0] + delimiter)
      else:
        items.append(self.describe(bucket, name))
    found = items[:int(query.get("maxResults") or 1000)]
    return {"kind": "storage#objects", "items": found,
            "prefixes": sorted(prefixes)}

  # Each answer: (status, headers, body).

  def answer(self, method: str, target: str, headers, body: bytes):
    parts = urllib.parse.urlsplit(target)
    query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    self.requests.append((method, target))
    path = parts.path
    if match := re.match(r"/(upload/)?storage/v1/b/([^/]+)(?:/o(?:/(.*))?)?$",
                         path):
      upload, bucket, name = match.groups()
      bucket = urllib.parse.unquote(bucket)
      if bucket in self.denied:
        return _json(403, {"error": {"message": "Anonymous caller does not "
                                     "have storage.objects.get access"}})
      if upload:
        return self._upload(method, bucket, query, headers, body)
      if name is None:
        return _json(200, self.list(bucket, query) if path.endswith("/o")
                     else {"kind": "storage#bucket", "name": bucket})
      return self._object(method, bucket, name, query, headers)
    if path == "/":
      return _json(400, {})
    bucket, _, name = urllib.parse.unquote(path[1:]).partition("/")
    return self._media(bucket, name, headers)

  def _upload(self, method, bucket, query, headers, body):
    if session := query.get("upload_id"):
      _, name, data = self._uploads[session]
      sent = re.match(r"bytes (\d+)-\d+/(\d+|\*)",
                      headers.get("Content-Range", ""))
      if sent:
        data[int(sent[1]):] = body
        if sent[2] == "*" or len(data) < int(sent[2]):
          return 308, {"Range": f"bytes=0-{len(data) - 1}"}, b""
      return _json(200, self.put(bucket, name, data))
    name = query.get("name", "")
    if query.get("uploadType") == "resumable":
      session = str(len(self._uploads))
      self._uploads[session] = bucket, name, bytearray()
      return 200, {"Location": (
          f"https://{_HOSTS[1]}/upload/storage/v1/b/{bucket}/o?uploadType="
          f"resumable&upload_id={session}")}, b""
    if query.get("uploadType") == "multipart":
      message = email.parser.BytesParser().parsebytes(
          b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n"
          + body)
      about, media = message.get_payload()
      name = name or json.loads(about.get_payload())["name"]
      body = media.get_payload(decode=True)
    if not self._matches(bucket, name, query):
      return _json(412, {"error": {"message": "precondition"}})
    return _json(200, self.put(bucket, name, body))

  def _matches(self, bucket, name, query) -> bool:
    wanted = query.get("ifGenerationMatch")
    found = self.objects.get((bucket, name), (b"", 0))[1]
    return wanted is None or int(wanted) == found

  def _object(self, method, bucket, name, query, headers):
    if method == "POST":  # Copies.
      source, _, target = name.partition("/rewriteTo/b/")
      to_bucket, _, to_name = target.partition("/o/")
      data, _ = self.objects[bucket, urllib.parse.unquote(source)]
      resource = self.put(to_bucket, urllib.parse.unquote(to_name), data)
      return _json(200, {"done": True, "resource": resource})
    name = urllib.parse.unquote(name)
    if (bucket, name) not in self.objects:
      return _json(404, {"error": {"code": 404, "message": "Not Found"}})
    if not self._matches(bucket, name, query):
      return _json(412, {"error": {"message": "precondition"}})
    if method == "DELETE":
      del self.objects[bucket, name]
      return 204, {}, b""
    if query.get("alt") == "media":
      if query.get("ifGenerationNotMatch") == str(
          self.objects[bucket, name][1]):
        return 304, {}, b""
      return self._media(bucket, name, headers)
    return _json(200, self.describe(bucket, name))

  def _media(self, bucket, name, headers):
    if bucket in self.denied:
      return _json(403, {})
    if (bucket, name) not in self.objects:
      return _json(404, {})
    data, generation = self.objects[bucket, name]
    about = {"x-goog-generation": str(generation)}
    asked = re.match(r"bytes=(\d*)-(\d*)", headers.get("Range") or "")
    if not asked:
      return 200, about, data
    if not asked[1]:
      first, last = max(0, len(data) - int(asked[2])), len(data) - 1
    else:
      first = int(asked[1])
      last = min(int(asked[2] or len(data)), len(data) - 1)
    if first >= len(data):
      return 416, {**about, "Content-Range": f"bytes */{len(data)}"}, b""
    return 206, {**about, "Content-Range": f"bytes {first}-{last}/{len(data)}"
                 }, data[first:last + 1]


def _json(status: int, value: Any):
  return status, {"Content-Type": "application/json"}, json.dumps(
      value).encode()


def _handler(store: Store, context: ssl.SSLContext):

  class Handler(http.server.BaseHTTPRequestHandler):
    """Opens the tunnel that CONNECT asks for, to itself."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # It waits 40 ms for a client's ACK.

    def do_CONNECT(self):
      host = self.path.partition(":")[0]
      if host not in _HOSTS:
        self.send_error(502, "only the stand-in's hosts")
        return
      self.send_response(200)
      self.end_headers()
      self.wfile.flush()
      self.connection = context.wrap_socket(self.connection, server_side=True)
      self.rfile = self.connection.makefile("rb")
      self.wfile = self.connection.makefile("wb")
      self.close_connection = False
      while not self.close_connection:
        self.handle_one_request()

    def handle_expect_100(self):
      going_on = super().handle_expect_100()
      self.wfile.flush()  # Else a client waits a second before it sends more.
      return going_on

    def _answer(self):
      if self.headers.get("Transfer-Encoding") == "chunked":
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
          body += self.rfile.read(size)
          self.rfile.readline()
        self.rfile.readline()
      else:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
      status, headers, content = store.answer(
          self.command, self.path, self.headers, body)
      self.send_response(status)
      for name, value in headers.items():
        self.send_header(name, value)
      if status not in (204, 304):
        self.send_header("Content-Length", str(len(content)))
      self.end_headers()
      if self.command != "HEAD":
        self.wfile.write(content)
      self.wfile.flush()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def log_message(self, *unused_args):
      pass

  return Handler


@contextlib.contextmanager
def served(folder: pathlib.Path) -> Iterator[tuple[Store, dict[str, str]]]:
  """Serves an empty store.

  Args:
    folder: for its certificate.

  Yields:
    The store, and the environment in which a process uses it; it must be set
    before TensorFlow and TensorStore are first used.
  """
  key, certificate = _certificate(folder)
  context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
  context.load_cert_chain(certificate, key)
  store = Store()
  server = http.server.ThreadingHTTPServer(
      ("127.0.0.1", 0), _handler(store, context))
  server.daemon_threads = True
  threading.Thread(target=server.serve_forever, daemon=True).start()
  proxy = f"http://127.0.0.1:{server.server_address[1]}"
  try:
    yield store, {
        "https_proxy": proxy, "http_proxy": proxy, "no_proxy": "",
        "CURL_CA_BUNDLE": str(certificate), "SSL_CERT_FILE": str(certificate),
        "TENSORSTORE_CA_BUNDLE": str(certificate),
        "NO_GCE_CHECK": "true", "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
        "CLOUDSDK_CONFIG": str(folder)}
  finally:
    server.shutdown()
    server.server_close()
