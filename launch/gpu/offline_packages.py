"""What offline_pack.py packs: which packages, and their files.

Wheels that pip downloads for another Python, or the packages of this one.
"""

import importlib.metadata
import json
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

from offline_unpack import PROJECT, Mistake, canonical
from packaging import markers
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = pathlib.Path(__file__).resolve().parents[2]
_SOURCES = ("setup.py", "README.md", "LICENSE", "stepdistill_jax", "gin",
            "tasks")
# Neither is read by anything that runs: headers, static libraries, tests.
LEFT_OUT = re.compile(
    r"(^|/)(tests|__pycache__)/|^tensorflow/include/|\.(a|pyc)$")


def pip(*words):
  """Runs pip; raises Mistake with its reasons."""
  done = subprocess.run(
      [sys.executable, "-m", "pip", *map(str, words)], text=True,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
  if done.returncode:
    _, error, reasons = done.stdout.partition("\nERROR: ")
    reasons = (reasons if error else done.stdout).strip()
    raise Mistake(f"pip {words[0]}: {reasons}")


def project_wheel(folder, *options):
  """Builds the checkout's wheel into a folder, of a copy without leftovers."""
  source = folder / "source"
  source.mkdir()
  for name in _SOURCES:
    if (ROOT / name).is_dir():
      shutil.copytree(ROOT / name, source / name,
                      ignore=shutil.ignore_patterns("__pycache__"))
    else:
      shutil.copyfile(ROOT / name, source / name)
  pip("wheel", "--no-deps", "--wheel-dir", folder, *options, source)
  (wheel,) = folder.glob("stepdistill_jax-*.whl")
  return wheel


def closure(wanted, packages, environment):
  """What requirements need, with all that those need in turn.

  Args:
    wanted: requirements.
    packages: name -> texts of a package's own requirements.
    environment: what markers are evaluated by.

  Returns:
    (names that `packages` has, texts of requirements that it lacks).
  """
  there, lacking, seen = set(), set(), set()
  todo = list(wanted)
  while todo:
    requirement = todo.pop()
    name = canonical(requirement.name)
    if name not in packages:
      lacking.add(f"{requirement.name}{requirement.specifier}")
      continue
    there.add(name)
    for extra in {"", *requirement.extras} - {
        extra for known, extra in seen if known == name}:
      seen.add((name, extra))
      todo += [needed for needed in map(Requirement, packages[name])
               if not needed.marker or needed.marker.evaluate(
                   {**environment, "extra": extra})]
  return there, lacking


def choose(args, packages, environment):
  """Returns (names to pack, names not to, texts of requirements lacking)."""
  needed, lacking = closure(
      [Requirement(f"{PROJECT}[{','.join(args.extra)}]")], packages,
      environment)
  given = [requirement for requirement in map(Requirement, args.without)
           if canonical(requirement.name) in needed]
  theirs, _ = closure(given, packages, environment)
  return needed - theirs - set(args.drop) - {PROJECT}, theirs, lacking


def pins(args, folder):
  """Writes constraints: the project's, without what --without's replace."""
  given = [text for text in args.without if Requirement(text).specifier]
  # jax==0.11.0 goes with another jaxlib, and with other plugins.
  replaced = re.compile("|".join(
      rf"{re.escape(Requirement(text).name)}(lib|-[\w-]+)?==" for text in given)
      or r"\Z.")
  path = folder / "constraints.txt"
  path.write_text("\n".join([
      *(line for line in args.constraints.read_text("utf-8").splitlines()
        if not replaced.match(line)), *given, ""]), "utf-8")
  return path


def target_flags(args):
  """pip's flags for wheels of the other machine."""
  major, minor = args.glibc.split(".")
  platforms = [f"manylinux_{major}_{n}" for n in range(int(minor), 4, -1)]
  platforms += ["manylinux2014", "manylinux2010", "manylinux1", "linux"]
  return ["--only-binary=:all:", "--implementation=cp",
          f"--python-version={args.python}",
          *(f"--platform={name}_{args.machine}" for name in platforms)]


def download(args, wheel, packages, folder):
  """Downloads and unpacks the wheels that the other machine lacks.

  Returns:
    Names that are the other machine's.
  """
  wheels = folder / "wheels"
  constraints = ["--constraint", pins(args, folder)]
  if args.build:
    pip("wheel", "--no-deps", "--wheel-dir", wheels, *constraints, *args.build)
  flags = ["--find-links", wheels, *target_flags(args)]
  newest = f"{args.python}.99"
  environment = {
      **markers.default_environment(), "python_version": args.python,
      "python_full_version": newest, "os_name": "posix",
      "platform_machine": args.machine, "platform_system": "Linux",
      "sys_platform": "linux"}
  extras = f"[{','.join(args.extra)}]" if args.extra else ""
  lacking, wanted = {f"{wheel}{extras}"}, set()
  while lacking - wanted:
    wanted |= lacking
    pip("install", "--dry-run", "--ignore-installed", "--target", folder,
        "--ignore-requires-python", "--report", folder / "report.json",
        *constraints, *flags, *sorted(wanted))
    found = {canonical(item["metadata"]["name"]): item["metadata"]
             for item in json.loads((folder / "report.json").read_text(
                 "utf-8"))["install"]}
    # pip reads markers and Requires-Python as of its own Python: what only
    # the other needs is added, and what is not for it is not taken.
    chosen, theirs, lacking = choose(
        args, {name: package.get("requires_dist", ())
               for name, package in found.items()}, environment)
    lacking |= {f"{name}!={found[name]['version']}" for name in chosen | theirs
                if not SpecifierSet(found[name].get(
                    "requires_python", "")).contains(newest)}
  fetch = lambda *specs: pip(
      "download", "--no-deps", "--dest", wheels, *flags, *specs)
  if "tensorflow" in chosen:
    try:
      fetch(f"tensorflow-cpu=={found['tensorflow']['version']}")
      chosen = chosen - {"tensorflow"} | {"tensorflow-cpu"}
    except Mistake as error:
      print(f"no CPU build of TensorFlow, so the other one: {error}")
  fetch(*(f"{name}=={found[name]['version']}"
          for name in sorted(chosen - {"tensorflow-cpu"})))
  for file in sorted(wheels.glob("*.whl")):
    if canonical(file.name.split("-")[0]) in chosen:
      install_wheel(file, packages)
  # What needs TensorFlow asks for it by this name.
  for info in packages.glob("tensorflow_cpu-*.dist-info"):
    metadata = info / "METADATA"
    metadata.write_text(re.sub(
        r"(?m)^Name: .*", "Name: tensorflow", metadata.read_text("utf-8"),
        count=1), "utf-8")
    info.rename(info.with_name(info.name.replace("_cpu", "", 1)))
  return theirs


def install_wheel(wheel, folder):
  """Unpacks a wheel's modules and metadata, as pip would, without scripts."""
  with zipfile.ZipFile(wheel) as archive:
    for info in archive.infolist():
      moved = re.match(r"[^/]+\.data/(\w+)/(.*)", info.filename)
      if moved and moved[1] in ("purelib", "platlib"):
        info.filename = moved[2]
      elif moved:
        continue
      if not info.is_dir() and not LEFT_OUT.search(info.filename):
        path = pathlib.Path(archive.extract(info, folder))
        path.chmod(0o755 if info.external_attr >> 16 & 0o100 else 0o644)


def copy_installed(name, folder):
  """Copies an installed package's modules and metadata."""
  package = importlib.metadata.distribution(name)
  if '"editable": true' in (package.read_text("direct_url.json") or ""):
    raise Mistake(f"{name} is an editable install; install it as a wheel")
  if not package.files:
    raise Mistake(f"{name} has no list of its files; install it by pip")
  for file in package.files:
    if ".." in file.parts or LEFT_OUT.search(file.as_posix()):
      continue
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file.locate(), folder / file)


def take_environment(args, folder):
  """Copies what the project needs of this environment, beside its wheel.

  Returns:
    Names that are the other machine's.
  """
  packages = {}  # The wheel's own requirements come first.
  for found in importlib.metadata.distributions(path=[str(folder), *sys.path]):
    packages.setdefault(canonical(found.name), found.requires or ())
  chosen, theirs, lacking = choose(
      args, packages, markers.default_environment())
  own = {canonical(Requirement(text).name) for text in args.without}
  lacking = sorted(text for text in lacking
                   if canonical(Requirement(text).name) not in own)
  if lacking:
    raise Mistake("this environment lacks " + ", ".join(lacking))
  for name in sorted(chosen):
    copy_installed(name, folder)
  return theirs


def collect(args, packages, work):
  """Fills the folder `packages`; returns names that the other machine has."""
  packages.mkdir()
  offline = ["--no-build-isolation", "--no-index"]
  wheel = args.wheel or project_wheel(
      work, *(offline if args.from_environment else ()))
  install_wheel(wheel, packages)
  (project,) = importlib.metadata.distributions(path=[str(packages)])
  known = project.metadata.get_all("Provides-Extra") or []
  for extra in args.extra:
    if extra not in known:
      raise Mistake(f"--extra={extra}: the project has " + ", ".join(known))
  if args.from_environment:
    return take_environment(args, packages)
  return download(args, wheel, packages, work)
