#!/usr/bin/env python3
"""Packs what the project needs beyond JAX and torch, for use without network.

  python launch/gpu/offline_pack.py --python=3.12 --without=jax==0.11.0,torch \\
      --part_size=58M --output=parts

Downloads wheels for the other machine's Python, TensorFlow's CPU build where
there is one, and builds the project's own from this checkout; or takes the
packages of the environment that it runs in (--from_environment). What --without
names, with all that it needs, is the other machine's own: nothing of it is
packed. Copy the folder there and run its offline_unpack.py. Needs Python with
pip and `packaging`; and `strip`, where symbols shall be left out.
"""

import argparse
import hashlib
import importlib.metadata
import io
import json
import lzma
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile

import offline_packages
import offline_unpack
from offline_unpack import Mistake, canonical
from packaging.requirements import InvalidRequirement, Requirement

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def size(text):
  """Bytes of `58M`; raises ArgumentTypeError."""
  match = re.fullmatch(r"([1-9]\d*)([KMG]?)", text)
  if not match:
    raise argparse.ArgumentTypeError(
        f"{text!r} is not a size such as 58M (MiB), 2G or 500000")
  return int(match[1]) * _UNITS[match[2]]


def version(text):
  """`3.12`; raises ArgumentTypeError."""
  if not re.fullmatch(r"\d+\.\d+", text):
    raise argparse.ArgumentTypeError(f"{text!r} is not a version such as 3.12")
  return text


def names(text):
  """What commas separate, as packages are named; an empty text has none."""
  return [canonical(name.strip()) for name in text.split(",") if name.strip()]


def needs(text):
  """Likewise of names with versions; raises ArgumentTypeError."""
  try:
    return [str(Requirement(part)) for part in text.split(",") if part.strip()]
  except InvalidRequirement:
    raise argparse.ArgumentTypeError(
        f"{text!r} is not a list such as jax==0.11.0,torch") from None


def strip(folder):
  """Removes symbols that nothing loads from libraries; returns a sentence."""
  program = shutil.which("strip")
  if program is None:
    return "symbols were left in: the program `strip` was not found"
  libraries = [path for path in sorted(folder.rglob("*"))
               if re.search(r"\.so(\.\d+)*$", path.name)]
  before = sum(path.stat().st_size for path in libraries)
  failed = [path.name for path in libraries if subprocess.run(
      [program, "--strip-unneeded", path], capture_output=True,
      check=False).returncode]
  after = sum(path.stat().st_size for path in libraries)
  return (f"symbols: {(before - after) / 2**20:,.0f} MiB of "
          f"{before / 2**20:,.0f} MiB of libraries left out"
          + ("; kept in " + ", ".join(failed) if failed else ""))


class Parts(io.RawIOBase):
  """Writes files `packages.000` and so on, none larger than a size."""

  def __init__(self, folder, most):
    self._folder, self._most = folder, most
    self._file, self._number = None, 0

  def writable(self):
    return True

  def write(self, data):
    done = 0
    while done < len(data):
      if self._file is None:
        self._file = (self._folder / f"packages.{self._number:03}").open("wb")
        self._number += 1
      done += self._file.write(
          data[done:done + self._most - self._file.tell()])
      if self._file.tell() == self._most:
        self._file = self._file.close()
    return done

  def close(self):
    if self._file is not None:
      self._file = self._file.close()
    super().close()


def write_archive(folder, stream):
  """Writes a tar of a folder; the same files give the same bytes."""
  with tarfile.open(fileobj=stream, mode="w|", bufsize=1 << 20) as archive:
    for path in sorted(folder.rglob("*")):
      if path.is_file():
        info = archive.gettarinfo(path, str(path.relative_to(folder)))
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mtime = 315532800  # 1980, the earliest that zip files know.
        info.mode = 0o755 if info.mode & 0o100 else 0o644
        with path.open("rb") as file:
          archive.addfile(info, file)


def needed_glibc(folder):
  """The newest glibc that a packed wheel's tags ask for, or ``."""
  found = [(0, 0)]
  for path in folder.glob("*.dist-info/WHEEL"):
    tags = path.read_text("utf-8").replace("manylinux2014", "manylinux_2_17")
    versions = [(int(major), int(minor)) for major, minor in re.findall(
        r"manylinux_(\d+)_(\d+)_", tags)]
    if versions:
      found.append(min(versions))
  return "{}.{}".format(*max(found)) if max(found) > (0, 0) else ""


def pack(args, work):
  """Packs in a temporary folder; returns (the parts' folder, the manifest)."""
  packages, parts = work / "packages", work / "parts"
  parts.mkdir()
  theirs = offline_packages.collect(args, packages, work)
  print(strip(packages))
  with Parts(parts, args.part_size) as stream:
    if args.preset == "none":
      write_archive(packages, stream)
    else:
      with lzma.open(stream, "wb", preset=int(args.preset)) as compressed:
        write_archive(packages, compressed)
  manifest = {
      "format": offline_unpack.FORMAT, "python": args.python,
      "platform": f"linux-{args.machine}", "glibc": needed_glibc(packages),
      "packages": dict(sorted(
          (canonical(found.name), found.version) for found in
          importlib.metadata.distributions(path=[str(packages)]))),
      "extras": args.extra, "not_packed": sorted(theirs), "dropped": args.drop,
      "files_left_out": offline_packages.LEFT_OUT.pattern,
      "unpacked_bytes": sum(path.stat().st_size for path in packages.rglob("*")
                            if path.is_file()),
      "parts": []}
  for path in sorted(parts.iterdir()):
    with path.open("rb") as file:
      manifest["parts"].append({
          "name": path.name, "bytes": path.stat().st_size,
          "sha256": hashlib.file_digest(file, "sha256").hexdigest()})
  (parts / offline_unpack.MANIFEST).write_text(
      json.dumps(manifest, indent=1) + "\n", "utf-8")
  shutil.copy(offline_unpack.__file__, parts)
  return parts, manifest


def parse_arguments(argv):
  parser = argparse.ArgumentParser(
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  here = "{}.{}".format(*sys.version_info)
  add("--output", type=pathlib.Path, required=True, metavar="FOLDER",
      help="where the parts shall be")
  add("--python", type=version, default=here, metavar="3.N",
      help=f"the other machine's Python ({here})")
  add("--machine", default="x86_64", help="its processor (x86_64)")
  add("--glibc", type=version, default="2.28", metavar="2.N",
      help="its C library (2.28)")
  add("--without", type=needs, default=["jax", "torch"], metavar="NAMES",
      help="what it has already, with versions where they matter (jax,torch)")
  add("--drop", type=names, default=["libclang"], metavar="NAMES",
      help="what is required but not used (libclang)")
  add("--extra", type=names, default=[], metavar="NAMES",
      help="the project's extras, such as hf,embeddings")
  add("--build", type=names, default=["promise", "rouge-score"],
      metavar="NAMES", help="packages without wheels, in Python alone "
      "(promise,rouge-score)")
  add("--constraints", type=pathlib.Path, metavar="FILE",
      default=offline_packages.ROOT / "constraints.txt",
      help="exact versions (the project's)")
  add("--wheel", type=pathlib.Path, metavar="FILE",
      help="the project's wheel (built from the checkout)")
  add("--from_environment", action="store_true",
      help="take the packages of this Python's environment: no network")
  add("--part_size", type=size, default=2**62, metavar="SIZE",
      help="at most this large, such as 58M (one part)")
  add("--preset", default="3", choices=[*"0123456789", "none"],
      help="of xz: 0 is fast, 9 small, none does not compress (3)")
  args = parser.parse_args(argv)
  if args.from_environment and args.python != here:
    parser.error(f"--from_environment has packages of Python {here}, not "
                 f"{args.python}")
  return args


def main(argv=None):
  args = parse_arguments(argv)
  output = args.output.absolute()
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  try:
    for path in filter(None, [args.wheel, args.constraints]):
      if not path.is_file():
        raise Mistake(f"there is no file {path}")
    offline_unpack.require_replaceable(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=output.parent, prefix=f".{output.name}.") as work:
      parts, manifest = pack(args, pathlib.Path(work))
      offline_unpack.publish(parts, output)
  except (Mistake, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  sizes = [part["bytes"] for part in manifest["parts"]]
  print(f"{len(manifest['packages'])} packages, "
        f"{manifest['unpacked_bytes'] / 2**20:,.0f} MiB, in {len(sizes)} parts "
        f"of {sum(sizes) / 2**20:,.0f} MiB; not packed: "
        + ", ".join(manifest["not_packed"] + manifest["dropped"]))
  print(f"copy {args.output} to the other machine, and there:\n"
        f"  python{args.python} {args.output.name}/offline_unpack.py "
        "--target=packages --check")
  return 0


if __name__ == "__main__":
  sys.exit(main())
