"""Paths in object stores (`gs://…`): can they be reached, and what went wrong.

TensorFlow (through `etils.epath`) and TensorStore read them, and try again for
minutes before they report a failure, as a long run needs it. A command that
cannot begin must not wait for that: `require_reachable` asks once, at the
start. What fails later becomes one line by `explain`.
"""

import functools
import os
import re
import threading

from stepdistill_jax.util import errors

# Both libraries ask this host, whatever the bucket.
_HOST = "storage.googleapis.com"
_OTHER_STORES = tuple(f"{scheme}://" for scheme in (
    "s3", "az", "abfs", "hf", "hdfs", "gcs", "file"))
# A name's look-up and a connection together.
_SECONDS = 20
_PATH = re.compile(
    rf"(?<![\w/.-])(?:{'|'.join(('gs://', *_OTHER_STORES))})"
    r"[^\s\"',;)\]]*")
# One slash: what `pathlib` makes of it.
_BEGINS = re.compile(r"(?:[^/=]+=)?(?!https?:)[a-z][a-z0-9+.-]+:/")
_NO_NETWORK = re.compile(
    r"libcurl|curl error|(re)?tr(y|ies) attempts failed|name resolution|"
    r"timed out|DEADLINE_EXCEEDED|UNAVAILABLE|Connection refused", re.I)
_NO_PERMISSION = re.compile(
    r"PERMISSION_DENIED|UNAUTHENTICATED|permission denied|credentials|"
    r"anonymous caller|HTTP response code 40[13]|HTTP_40[13]|forbidden", re.I)
_NO_SUCH_SCHEME = re.compile(
    r"File system scheme|Unsup+orted scheme|to use epath\.Path", re.I)


def is_remote(path: str | os.PathLike[str]) -> bool:
  """Whether a path, or NAME=PATH, names something in an object store.

  >>> is_remote("gs://bucket/runs"), is_remote("name=gs://bucket/runs")
  (True, True)
  >>> is_remote("/runs"), is_remote("http://localhost:8000")
  (False, False)
  """
  return bool(_BEGINS.match(os.fspath(path)))


def paths_in(text: str) -> list[str]:
  """All such paths in a text, such as the value of a gin binding.

  >>> paths_in("MODEL_DIR = 'gs://bucket/runs'")
  ['gs://bucket/runs']
  """
  return _PATH.findall(text)


@functools.cache
def _why_not_reachable() -> str | None:
  """What the network says if Google's storage does not answer; None if it does.

  In a thread: a name that has many addresses is tried at each of them.
  """
  import urllib.error  # Slow to import, for the help of a command.
  import urllib.request

  found = [f"{_HOST} did not answer within {_SECONDS} s"]

  def ask() -> None:
    try:
      # Not `urlopen`, which would keep today's proxies for the process's life.
      urllib.request.build_opener().open(
          f"https://{_HOST}/", timeout=_SECONDS).close()
    except urllib.error.HTTPError:  # An answer, to nobody in particular.
      pass
    except OSError as error:
      found[0] = f"{_HOST}: {getattr(error, 'reason', error)}"
      return
    found.clear()

  asking = threading.Thread(target=ask, daemon=True)
  asking.start()
  asking.join(_SECONDS)
  return found[0] if found else None


def require_reachable(text: str) -> None:
  """Checks the network once where a text names a `gs://` path.

  Raises:
    errors.UserError: Google's storage does not answer, or the text names a
      path in a store of another kind.
  """
  for path in paths_in(text):
    if path.startswith(_OTHER_STORES):
      raise errors.UserError(
          _line(path, f"{path.partition(':')[0]}:// is not supported",
                _ADVICE["scheme"]))
    if path.startswith("gs://") and (why := _why_not_reachable()):
      raise errors.UserError(_line(path, why, _ADVICE["network"]))


_ADVICE = {
    "network": "check the network (and https_proxy), or copy it to this "
    "machine and give its local path",
    "permission": "it needs an account that may use the bucket: `gcloud auth "
    "application-default login`, or GOOGLE_APPLICATION_CREDENTIALS=KEY.json",
    "scheme": "only gs:// and local paths work; mount it, or copy it to this "
    "machine",
    "": "STEPDISTILL_TRACEBACK=1 shows where it happened"}


def _line(path: str, why: str, advice: str) -> str:
  return f"{path} cannot be used: {why}; {advice}"


def is_unreachable(error: BaseException) -> bool:
  """Whether an error comes from the network or from missing permission.

  It then says nothing about the files themselves, such as that they are
  damaged.
  """
  return any(_NO_NETWORK.search(str(one)) or _NO_PERMISSION.search(str(one))
             for one in errors.chain(error) if _is_of_storage(one))


def _is_of_storage(error: BaseException) -> bool:
  return bool(_PATH.search(str(error)) or re.search(
      r"libcurl|curl error|googleapis\.com|http_response_code", str(error),
      re.I))


def is_of_files(error: BaseException) -> bool:
  """Whether an error is about files, local or remote.

  What TensorFlow raises about remote ones is not an OSError.
  """
  return isinstance(error, OSError) or explain(error) is not None


def explain(error: BaseException) -> str | None:
  """A line about a failure of an object store; None for any other error."""
  found = [one for one in errors.chain(error) if _is_of_storage(one)]
  if not found:
    return None
  text = str(found[-1])  # The first cause.
  path = next((p for one in found for p in paths_in(str(one))), "a gs:// path")
  kind = next((kind for kind, pattern in (
      ("scheme", _NO_SUCH_SCHEME), ("permission", _NO_PERMISSION),
      ("network", _NO_NETWORK)) if pattern.search(text)), "")
  # TensorStore adds details in brackets.
  why = " ".join(re.sub(r" \[\w[\w ]*=.*", "", text, flags=re.S).split())
  return _line(path, why[:300], _ADVICE[kind])
