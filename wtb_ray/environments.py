"""Environments: what a specification comes down to over the base, and building it.

Everything is resolved under the versions that the bench itself stands on; then only what the base
lacks or has otherwise is installed into a directory of its own, in front of the base's packages.
"""

import asyncio
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import orjson
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from wtb_ray import bases, errors, installer, pinning, venvs
from wtb_ray.bases import Base, base, protected
from wtb_ray.environment import EnvSpec, Pins
from wtb_ray.flocks import Hold
from wtb_ray.frozen import digest
from wtb_ray.pinning import Line, needs_folder, wheels
from wtb_ray.venvs import Record

__all__ = [
    "Base",
    "Built",
    "Pins",
    "base",
    "build",
    "check_python",
    "environment_digest",
    "needs_folder",
    "protected",
    "resolve",
    "venv_digest",
    "wheels",
]

NEEDED: Final = ("ray", "wtb_ray.actors.runner")
"""What a runner imports: a new environment must be able to."""
_PROBE: Final = """
import importlib, importlib.metadata, json, sys
modules, names = json.loads(sys.argv[1])
for module in modules:
    importlib.import_module(module)
found = [importlib.metadata.distribution(name) for name in names]
print(json.dumps({
    "ray": importlib.metadata.version("ray"),
    "installed": {name: [one.version, str(one.locate_file(""))] for name, one in zip(names, found)},
}))
"""
_MOST_SAID: Final = 4000
_WHEEL: Final = "Wheel-Version: 1.0\nGenerator: wtb-ray\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


class Built(NamedTuple):
    """A new environment in its final place."""

    path: Path
    hold: Hold
    """Keeps it from being removed; the caller's to release."""
    record: Record


def venv_digest(spec: EnvSpec, base: Base, wheels: Mapping[str, str]) -> str:
    """SHA-256 of all that decides what is installed.

    Args:
        spec: Its variables and secrets do not count.
        base: What it lies over.
        wheels: SHA-256 by path of the distributions in the project's folder; see `wheels`.
    """
    asked = {
        "packages": spec.packages,
        "requirements": spec.requirements,
        "lock": spec.lock,
        "find_links": spec.find_links,
        "wheels": dict(wheels),
    }
    return digest({"base": base.digest, "asked": asked if spec.installs else None})


def environment_digest(spec: EnvSpec, venv: str) -> str:
    """SHA-256 of what is installed, the variables, and the names of the secrets."""
    return digest({"venv": venv, "env_vars": spec.env_vars, "secrets": sorted(spec.secrets)})


def check_python(spec: EnvSpec, base: Base) -> None:
    """Refuses another Python than the base's.

    Raises:
        PythonMismatch: Naming both.
    """
    have = ".".join(base.python.split(".")[:2])
    if spec.python_version not in (None, have):
        raise errors.PythonMismatch(
            f"the environment asks for Python {spec.python_version}, the cluster has {base.python}",
            field="environment.python_version",
            reason="other_python",
            required=spec.python_version,
            bench=base.python,
        )


async def resolve(spec: EnvSpec, base: Base, folder: Path | None, *, root: Path) -> Pins:
    """What a specification comes down to over the base; a lock is taken as it is.

    Args:
        spec: What is asked for.
        base: What it lies over: its other packages stay as they are where that will do.
        folder: The project's unpacked folder, in which wheels are looked for.
        root: Where environments are built, and what this needs meanwhile is kept.

    Raises:
        PythonMismatch: It asks for another Python.
        EnvironmentConflict: It needs what the bench has otherwise; names both requirements.
        EnvironmentFailed: A line is no requirement, or uv finds no solution: in its words.
        Unavailable: The package index cannot be reached; again later it may.
        StorageFull: There is no room left.
    """
    check_python(spec, base)
    lines = pinning.given(spec)
    pinning.conflicts(lines, protected())
    if spec.lock is not None:
        return pinning.pins_of(lines, base.packages, any(line.hashes for line in lines))
    with venvs.writing(root):
        async with venvs.scratch(root) as (work, held):
            asked = [line.written(folder) for line in lines]
            await asyncio.to_thread(_prepare, work, base, asked)
            command = [
                *("pip", "compile", str(work / "asked.txt"), "--python", base.executable),
                *("--constraints", str(work / "protected.txt")),
                *("--output-file", str(work / "pins.txt")),
                *("--no-header", "--no-annotate", "--find-links", str(work / "base")),
                *_links(spec, folder),
            ]
            try:
                await installer.run_uv(command, keep=[held.fd])
            except errors.EnvironmentFailed as e:
                raise pinning.explained(e, protected()) from e
            text = (work / "pins.txt").read_text()
    return _resolved(text, lines, base)


async def build(
    spec: EnvSpec,
    pins: Pins,
    base: Base,
    root: Path,
    *,
    folder: Path | None = None,
    imports: Sequence[str] = NEEDED,
) -> Built:
    """Builds an environment of pins; nobody sees it before it is complete and was tried out.

    Args:
        spec: What was asked for.
        pins: What it came down to.
        base: What it lies over.
        root: Where environments are.
        folder: The project's unpacked folder.
        imports: Modules that it must be able to import.

    Raises:
        EnvironmentFailed: uv refuses, in its words, or the bench cannot be imported in it.
        Unavailable: It may work later: the index, or room (StorageFull), is missing.
        ConfigurationError: Nothing can be built there.
    """
    began = time.monotonic()
    venvs.check_root(root)
    found = await asyncio.to_thread(wheels, spec, folder)
    with venvs.writing(root):
        async with venvs.scratch(root) as (work, held):
            made = work / "venv"
            await _install(spec, pins, base, made, folder, held)
            installed = await _try_out(made, pins, base, imports, held)
            record = Record.over(
                base,
                venv=venv_digest(spec, base, found),
                spec=spec.digest(),
                pins=pins,
                installed=installed,
                bytes=await asyncio.to_thread(venvs.size, made),
                seconds=round(time.monotonic() - began, 3),
            )
            return Built(*venvs.publish(root, made, record), record)


async def _install(
    spec: EnvSpec, pins: Pins, base: Base, made: Path, folder: Path | None, held: Hold
) -> None:
    venv = ["venv", str(made), "--relocatable", "--no-project", "--python", base.executable]
    await installer.run_uv(venv, keep=[held.fd])
    packages = made / "lib" / f"python{'.'.join(base.python.split('.')[:2])}" / "site-packages"
    lines = [f"import site; site.addsitedir({place!r})\n" for place in base.site]
    (packages / "_base.pth").write_text("".join(lines))
    if not pins.lines:
        return
    asked = made.with_name("install.txt")
    asked.write_text("".join(f"{line.written(folder)}\n" for line in _lines(pins)))
    command = [
        *("pip", "install", "--python", str(made / "bin" / "python"), "--no-deps"),
        # What is written in one environment must be neither in uv's cache nor in another one.
        *("--link-mode", "copy", "--compile-bytecode"),
        *("--requirements", str(asked), *_links(spec, folder)),
        *(["--require-hashes"] if pins.hashed else []),
    ]
    await installer.run_uv(command, keep=[held.fd])
    if damaged := await asyncio.to_thread(venvs.damaged, made):
        raise _useless(
            "damaged", f"what uv's cache has of it is damaged (`uv cache clean`): {damaged[0]}"
        )


async def _try_out(
    made: Path, pins: Pins, base: Base, imports: Sequence[str], held: Hold
) -> dict[str, str]:
    """Runs the new interpreter once; gives the versions of what was installed, as it sees them."""
    wanted = {line.name: line for line in _lines(pins)}
    question = orjson.dumps([list(imports), list(wanted)]).decode()
    command = [str(made / "bin" / "python"), "-I", "-B", "-c", _PROBE, question]
    ended = await installer.run(command, keep=[held.fd])
    if ended.code < 0:
        raise errors.Unavailable(
            f"the new environment's Python was ended by signal {-ended.code}", reason="killed"
        )
    if ended.code:
        said = ended.err.strip()
        raise _useless("import_failed", said.rpartition("\n")[2], output=said[-_MOST_SAID:])
    answer = orjson.loads(ended.out.strip().rpartition("\n")[2])
    if answer["ray"] != base.ray:
        raise _useless("not_seen", f"it sees Ray {answer['ray']} instead of {base.ray}")
    for name, (version, place) in answer["installed"].items():
        pinned = wanted[name].version
        if not Path(place).is_relative_to(made) or (
            pinned is not None and not pinning.same(version, pinned)
        ):
            raise _useless("not_seen", f"it sees {name} {version} in {place}")
    return {name: version for name, (version, _) in answer["installed"].items()}


def _useless(reason: str, why: str, **details: str) -> errors.EnvironmentFailed:
    return errors.EnvironmentFailed(
        f"the bench cannot run in this environment: {why}",
        field="environment",
        reason=reason,
        **details,
    )


def _lines(pins: Pins) -> list[Line]:
    return [line for text in pins.lines for line in pinning.parse(text, "pins")]


def _links(spec: EnvSpec, folder: Path | None) -> list[str]:
    places = (pinning.confined(folder, links) for links in spec.find_links)
    return [f"--find-links={place}" for place in places]


def _resolved(text: str, lines: Sequence[Line], base: Base) -> Pins:
    """The pins that uv has written."""
    local = {line.name: line for line in lines if line.path is not None}
    found = []
    for written in text.splitlines():
        name, at, place = written.partition(" @ ")
        if at and place.startswith("file:") and canonicalize_name(name) in local:
            found.append(local[canonicalize_name(name)])
        else:
            found += pinning.parse(written, "requirements")
    pinning.conflicts(found, protected())
    return pinning.pins_of(found, base.packages, False)


def _prepare(work: Path, base: Base, asked: Sequence[str]) -> None:
    """Writes what uv reads: what is asked for, the versions that must stay and those that may, and
    the metadata of the base's packages, which need not be on any index."""
    (work / "asked.txt").write_text("".join(f"{line}\n" for line in asked))
    own = (f"{name}=={one.version}\n" for name, one in protected().items())
    (work / "protected.txt").write_text("".join(own))
    preferred = (f"{name}=={version}\n" for name, version in base.packages.items())
    (work / "pins.txt").write_text("".join(preferred))
    (work / "base").mkdir()
    for name, version in base.packages.items():
        try:
            stem = f"{name.replace('-', '_')}-{Version(version)}"
        except InvalidVersion:  # nothing can require it
            continue
        with zipfile.ZipFile(work / "base" / f"{stem}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{stem}.dist-info/METADATA", bases.metadata(base, name))
            wheel.writestr(f"{stem}.dist-info/WHEEL", _WHEEL)
            wheel.writestr(f"{stem}.dist-info/RECORD", "")
