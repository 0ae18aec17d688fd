#!/usr/bin/env python3
"""Installs what offline_pack.py packed, on a machine without network.

  python3.12 parts/offline_unpack.py --target=packages --check

Run it by the Python that will train, in the environment that has JAX. All parts
are checked against the manifest before anything is written. The folder comes
behind the environment's own packages: what is in both is the environment's.
Needs Python alone, and travels with the parts.
"""

import argparse
import hashlib
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile

FORMAT = 1
MANIFEST = "offline_manifest.json"
PROJECT = "stepdistill-jax"
_PATH_FILE = "stepdistill_offline.pth"
# As pip writes it: a path may be longer than a `#!` line can be.
_COMMAND = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import sys
from {module} import {function}
sys.exit({function}())
"""
# JAX's devices first: see docs/launching.md.
_CHECK = """
import jax
devices = jax.devices()
import numpy, seqio, tensorflow
import stepdistill_jax.cli.stepdistill, stepdistill_jax.cli.t5x
import stepdistill_jax.tasks
for module in stepdistill_jax, jax, numpy, tensorflow:
  print(module.__name__, module.__version__, module.__file__)
print("devices:", *devices)
"""


class Mistake(Exception):
  """What the user can mend, in one line."""


def canonical(name):
  return re.sub(r"[-_.]+", "-", name).lower()


def require_replaceable(folder):
  """Raises Mistake unless a folder is new, empty, or of these scripts."""
  if folder.exists() and not (folder / MANIFEST).is_file() and (
      not folder.is_dir() or any(folder.iterdir())):
    raise Mistake(f"{folder} has something else in it; name a new folder")


def publish(new, folder):
  """Renames a finished folder into its place, and then deletes the former."""
  former = new.with_name(new.name + ".former")
  if folder.exists():
    folder.rename(former)
  new.rename(folder)
  shutil.rmtree(former, ignore_errors=True)


def read_manifest(folder):
  """Returns what the parts in a folder are of; raises Mistake."""
  path = folder / MANIFEST
  try:
    manifest = json.loads(path.read_bytes())
    if manifest["format"] != FORMAT:
      raise Mistake(f"{path} has format {manifest['format']}, not {FORMAT}; "
                    "use the offline_unpack.py that lies beside it")
    return manifest
  except FileNotFoundError:
    raise Mistake(f"{path} is missing; give the folder that offline_pack.py "
                  "wrote") from None
  except (ValueError, KeyError, TypeError):
    raise Mistake(f"{path} is damaged; copy it again") from None


def check_parts(folder, manifest):
  """Returns the parts' paths; raises Mistake of the first that is not whole."""
  paths = []
  for part in manifest["parts"]:
    path = folder / pathlib.PurePath(part["name"]).name
    if not path.is_file():
      raise Mistake(f"{path} is missing; copy it again")
    if path.stat().st_size != part["bytes"]:
      raise Mistake(f"{path} has {path.stat().st_size:,} bytes instead of "
                    f"{part['bytes']:,}; copy it again")
    with path.open("rb") as file:
      if hashlib.file_digest(file, "sha256").hexdigest() != part["sha256"]:
        raise Mistake(f"{path} was changed: its SHA-256 is not the manifest's; "
                      "copy it again")
    paths.append(path)
  return paths


def check_machine(manifest, target):
  """Raises Mistake if the packages cannot work here, or have no room."""
  version = "{}.{}".format(*sys.version_info)
  if version != manifest["python"]:
    raise Mistake(
        f"packed for Python {manifest['python']}, this is {version}: run it by "
        f"python{manifest['python']}, or pack with --python={version}")
  if not hasattr(tarfile, "data_filter"):
    raise Mistake(f"Python {platform.python_version()} cannot unpack safely; "
                  "3.11.4 or newer is needed")
  here = f"{sys.platform}-{platform.machine()}"
  if here != manifest["platform"]:
    raise Mistake(f"packed for {manifest['platform']}, this is {here}")
  numbers = lambda text: tuple(map(int, text.split(".")))
  glibc = platform.libc_ver()[1] if platform.libc_ver()[0] == "glibc" else "0"
  if manifest["glibc"] and numbers(glibc) < numbers(manifest["glibc"]):
    raise Mistake(f"glibc {manifest['glibc']} or newer is needed, this machine "
                  f"has {glibc}; pack with --glibc={glibc}")
  free = shutil.disk_usage(target.parent).free
  if free < manifest["unpacked_bytes"]:
    raise Mistake(f"{target.parent} has {free:,} bytes free, "
                  f"{manifest['unpacked_bytes']:,} are needed")


class _Joined(io.RawIOBase):
  """Reads files as if they were one."""

  def __init__(self, paths):
    self._rest = list(paths)
    self._file = io.BytesIO()

  def readable(self):
    return True

  def readinto(self, buffer):
    while not (count := self._file.readinto(buffer)) and self._rest:
      self._file.close()
      self._file = self._rest.pop(0).open("rb")
    return count


def extract(paths, folder):
  """Unpacks parts; raises Mistake of members that would leave the folder."""
  try:
    with tarfile.open(fileobj=io.BufferedReader(_Joined(paths), 1 << 20),
                      mode="r|*", bufsize=1 << 20) as archive:
      archive.extractall(folder, filter="data")
  except (tarfile.TarError, EOFError) as error:
    raise Mistake(f"the parts cannot be unpacked: {error}") from error


def write_commands(target):
  """Writes bin/t5x and the others of the project's, for this Python."""
  folder = target / "bin"
  folder.mkdir(exist_ok=True)
  for found in importlib.metadata.distributions(path=[str(target)]):
    if canonical(found.name) != PROJECT:
      continue
    for entry in found.entry_points.select(group="console_scripts"):
      program = folder / entry.name
      program.write_text(_COMMAND.format(
          python=sys.executable, module=entry.module, function=entry.attr))
      program.chmod(0o755)


def add_to_environment(target):
  """Adds the folder to this Python's path.

  Returns:
    What the user's shells, and what this process starts, need for it.
  """
  path_file = pathlib.Path(sysconfig.get_path("purelib"), _PATH_FILE)
  try:
    path_file.write_text(f"{target}\n")
  except OSError as error:
    print(f"{path_file.parent} cannot be written ({error.strerror}); in each "
          f'shell: export PYTHONPATH="{target}"')
    return {"PYTHONPATH": str(target)}
  print(f"{path_file} adds it to this Python's packages; delete it to undo")
  return {}


def conflicts(target, manifest):
  """Yields a line for each requirement that this environment does not meet."""
  if str(target) not in sys.path:
    sys.path.append(str(target))
  try:
    from packaging import requirements
  except ImportError:
    yield "versions were not compared: the package `packaging` is missing"
    return
  found = {}
  for distribution in importlib.metadata.distributions():
    found.setdefault(canonical(distribution.name), distribution)
  place = found[PROJECT].locate_file("")
  if pathlib.Path(place) != target:
    yield f"the project that is installed in {place} is used; uninstall it"
  for name in manifest["packages"]:
    extras = ["", *(manifest["extras"] if name == PROJECT else ())]
    for text in found[name].requires or ():
      needed = requirements.Requirement(text)
      other = canonical(needed.name)
      if other in manifest["dropped"] or needed.marker and not any(
          needed.marker.evaluate({"extra": extra}) for extra in extras):
        continue
      wanted = f"{name} {found[name].version} needs {needed.name}"
      if other not in found:
        yield f"{wanted}{needed.specifier}, which is missing"
      elif not needed.specifier.contains(found[other].version, True):
        yield (f"{wanted}{needed.specifier}; "
               f"{found[other].locate_file('')} has {found[other].version}")


def unpack(parts, target):
  """Unpacks a folder of parts, unless it is done; returns the manifest."""
  manifest = read_manifest(parts)
  require_replaceable(target)
  target.parent.mkdir(parents=True, exist_ok=True)
  done = target / MANIFEST
  if done.is_file() and done.read_bytes() == (parts / MANIFEST).read_bytes():
    print(f"{target} has these packages already")
    return manifest
  check_machine(manifest, target)
  paths = check_parts(parts, manifest)
  with tempfile.TemporaryDirectory(
      dir=target.parent, prefix=f".{target.name}.") as temporary:
    new = pathlib.Path(temporary, "new")
    extract(paths, new)
    shutil.copyfile(parts / MANIFEST, new / MANIFEST)
    publish(new, target)
  print(f"{target}: {len(manifest['packages'])} packages, "
        f"{manifest['unpacked_bytes'] / 2**20:,.0f} MiB")
  return manifest


def main(argv=None):
  parser = argparse.ArgumentParser(
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
      "parts", nargs="?", type=pathlib.Path, metavar="PARTS",
      default=pathlib.Path(__file__).parent,
      help="folder of the parts (this script's)")
  parser.add_argument("--target", type=pathlib.Path, required=True,
                      metavar="FOLDER", help="where the packages shall be")
  parser.add_argument("--check", action="store_true",
                      help="import the project, and print versions and devices")
  args = parser.parse_args(argv)
  target = args.target.absolute()
  # In the order of what --check prints, also where it goes to a file.
  sys.stdout.reconfigure(line_buffering=True)
  try:
    manifest = unpack(args.parts, target)
    write_commands(target)
    variables = add_to_environment(target)
    for line in conflicts(target, manifest):
      print("warning:", line, file=sys.stderr)
    if args.check and subprocess.run(
        [sys.executable, "-c", _CHECK],
        env={**os.environ, **variables}).returncode:
      raise Mistake("the project cannot be imported; see above")
    print(f'the commands are in its bin: export PATH="{target}/bin:$PATH"')
  except (Mistake, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
