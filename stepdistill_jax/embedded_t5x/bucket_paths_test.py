"""Checkpoints in a bucket: `gs://` paths go through the same code.

A server on this machine speaks as much of Google Cloud Storage's protocol as
TensorStore needs; `epath`, through which all other files are read and
written, is given the server's folder. Nothing leaves the machine.
"""

import http.server
import json
import os
import pathlib
import threading
import urllib.parse

from etils import epath
from etils.epath import backend as epath_backend, gpath
import numpy as np
import pytest

from stepdistill_jax.embedded_t5x import (
  checkpoint_config,
  checkpoints,
  checkpoints_test,
  state_initializer,
)
from stepdistill_jax.interop.t5x import importing_test as import_t5x_test

Model = checkpoints_test.Model


class _Bucket(http.server.BaseHTTPRequestHandler):
  """Objects are files below `root`: get, put, list, delete."""

  root: pathlib.Path
  requests: list

  def log_message(self, *unused):
    pass

  def _answer(self, status, body=b"", headers=()):
    self.send_response(status)
    for name, value in headers:
      self.send_header(name, value)
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  def _parse(self):
    self.requests.append(self.command)
    url = urllib.parse.urlparse(self.path)
    query = {k: v[0] for k, v in urllib.parse.parse_qs(url.query).items()}
    name = urllib.parse.unquote(url.path.partition("/o/")[2])
    return query, name

  def _metadata(self, name):
    return {"name": name, "generation": "1", "size": str(
        (self.root / name).stat().st_size)}

  def do_GET(self):
    query, name = self._parse()
    if not name:
      prefix = query.get("prefix", "")
      names = sorted(
          p.relative_to(self.root).as_posix()
          for p in self.root.rglob("*") if p.is_file())
      self._answer(200, json.dumps({"items": [
          self._metadata(n) for n in names if n.startswith(prefix)]}).encode())
    elif not (self.root / name).is_file():
      self._answer(404)
    elif query.get("alt") == "media":
      data = (self.root / name).read_bytes()
      headers = [("x-goog-generation", "1")]
      wanted = self.headers.get("Range")
      if not wanted:
        self._answer(200, data, headers)
        return
      first, last = wanted.removeprefix("bytes=").split("-")
      first, last = int(first), int(last or len(data) - 1)
      headers.append(("Content-Range", f"bytes {first}-{last}/{len(data)}"))
      self._answer(206, data[first:last + 1], headers)
    else:
      self._answer(200, json.dumps(self._metadata(name)).encode())

  def do_POST(self):
    query, _ = self._parse()
    path = self.root / query["name"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
    self._answer(200, json.dumps(self._metadata(query["name"])).encode())

  def do_DELETE(self):
    _, name = self._parse()
    (self.root / name).unlink(missing_ok=True)
    self._answer(204)


class _MappedBackend:
  """`epath`'s backend for local files, of another folder."""

  def __init__(self, root):
    self._root = root

  def __getattr__(self, name):
    method = getattr(epath_backend.os_backend, name)
    here = lambda x: x.replace("gs://", f"{self._root}/", 1) if isinstance(
        x, str) else x
    there = lambda x: x.replace(f"{self._root}/", "gs://", 1) if isinstance(
        x, str) else x

    def call(*args, **kwargs):
      args = [here(os.fspath(a)) if isinstance(a, (str, os.PathLike)) else a
              for a in args]
      result = method(*args, **kwargs)
      return [there(x) for x in result] if isinstance(result, list) else result

    return call


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """The requests that `gs://bucket`, in `tmp_path / "bucket"`, was sent."""
  (tmp_path / "bucket").mkdir()
  handler = type("Handler", (_Bucket,), {
      "root": tmp_path / "bucket", "requests": []})
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  monkeypatch.setenv(
      "TENSORSTORE_GCS_HTTP_URL", f"http://127.0.0.1:{server.server_port}")
  monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
  backend = _MappedBackend(tmp_path)
  monkeypatch.setattr(epath_backend, "tf_backend", backend)
  monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", backend)
  yield handler.requests
  server.shutdown()


def test_saved_found_and_restored(bucket):
  state = checkpoints_test.save("gs://bucket/run", Model("a"), step=3)
  later = checkpoints_test.save("gs://bucket/run", Model("a"), seed=1, step=5)
  assert checkpoints.all_steps("gs://bucket/run") == [3, 5]
  assert "POST" in bucket
  cfg, path = checkpoint_config.initial_checkpoint(
      "gs://bucket/run", checkpoint_config.SaveCheckpointConfig(), None)
  assert path == "gs://bucket/run/checkpoint_5"
  restored = Model("a").initializer().restore(cfg, path)
  checkpoints_test.assert_equal(restored, later)
  earlier = checkpoints_test.restore("gs://bucket/run/checkpoint_3", Model("a"))
  checkpoints_test.assert_equal(earlier, state)


def test_the_older_layout_is_read(bucket, tmp_path):
  arrays = {f"target/a/{name}": np.random.default_rng(0).normal(
      size=shape).astype(np.float32)
            for name, shape in (("kernel", (4, 6)), ("scale", (4,)))}
  import_t5x_test.write_legacy(
      tmp_path / "bucket" / "old" / "checkpoint_3", arrays)
  restored = checkpoints_test.restore(
      "gs://bucket/old/checkpoint_3", Model("a"), optimizer=False)
  for name, value in arrays.items():
    np.testing.assert_array_equal(
        restored.params["a"][name.split("/")[-1]], value)
  assert int(restored.step) == 3 and "GET" in bucket


def test_model_info_is_written(bucket):
  del bucket
  initializer = Model("a").initializer()
  state_initializer.log_model_info(
      "gs://bucket/new/model-info.txt", initializer.global_train_state_shape,
      checkpoints_test.PARTITIONER)
  assert "a/kernel" in epath.Path("gs://bucket/new/model-info.txt").read_text()
