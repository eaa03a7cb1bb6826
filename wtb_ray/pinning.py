"""Requirements as they are given, and pins: what they come down to on one base.

Reads requirement files without options: where packages come from is a matter of uv's settings. A
local wheel is named by a path inside the project's folder and stays there.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import (
    InvalidWheelFilename,
    canonicalize_name,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from wtb_ray import errors
from wtb_ray.bases import Protected
from wtb_ray.environment import EnvSpec, Pins

_HASH: Final = re.compile(r"\s--hash[=\s]+(\S+)")
_COMMENT: Final = re.compile(r"(^|\s)#.*$")
_COMMIT: Final = re.compile(r"@[0-9a-f]{40}(#.*)?$")
_MENTION: Final = re.compile(
    r"(?<![\w.\-])(?P<name>[A-Za-z0-9][\w.\-]*)(?:\[[^\]]*\])?"
    r"(?P<wanted>(?:===?|~=|!=|<=?|>=?)[\w.*+!]+(?:, ?(?:===?|~=|!=|<=?|>=?)[\w.*+!]+)*)"
)
_NEEDING: Final = re.compile(r"(\S+) depends? on (?:one of: )?(?:\S+, )*$")
DISTRIBUTIONS: Final = (".whl", ".tar.gz", ".zip")


class Line(NamedTuple):
    """One requirement."""

    field: str
    """Where it was given: `packages`, `requirements` or `lock`."""
    text: str
    requirement: Requirement
    path: str | None = None
    """A wheel inside the project's folder."""
    hashes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def here(self) -> bool:
        """Whether its marker holds on this base."""
        marker = self.requirement.marker
        return marker is None or marker.evaluate()

    @property
    def version(self) -> str | None:
        """The only version that it allows, if it allows but one."""
        specifiers = list(self.requirement.specifier)
        if len(specifiers) != 1 or specifiers[0].operator not in ("==", "==="):
            return None
        version: str = specifiers[0].version
        return None if version.endswith(".*") else version

    def allows(self, version: str) -> bool:
        """Whether this version, from wherever the base has it, will do."""
        direct = self.path is not None or self.requirement.url is not None
        return not direct and self.requirement.specifier.contains(version, prereleases=True)

    def written(self, folder: Path | None) -> str:
        """As uv reads it."""
        rest = "".join(f" --hash={one}" for one in self.hashes)
        if self.path is None:
            return f"{self.requirement}{rest}"
        extras = f"[{','.join(sorted(self.requirement.extras))}]" if self.requirement.extras else ""
        marker = f" ; {self.requirement.marker}" if self.requirement.marker else ""
        place = confined(folder, self.path).as_uri()
        return f"{self.requirement.name}{extras} @ {place}{marker}{rest}"


def given(spec: EnvSpec) -> list[Line]:
    """All requirements that a specification has.

    Raises:
        EnvironmentFailed: A line is none, by field and line.
    """
    if spec.lock is not None:
        return list(_locked(spec.lock))
    packages = [line for text in spec.packages for line in parse(text, "packages")]
    return [*packages, *parse(spec.requirements or "", "requirements")]


def parse(text: str, field: str) -> Iterator[Line]:
    """The requirements of a text in the form of a requirements file.

    Raises:
        EnvironmentFailed: A line is none, by field and line.
    """
    for logical in re.sub(r"\\\r?\n", " ", text).splitlines():
        line = _COMMENT.sub("", logical).strip()
        if line:
            yield _line(line, field)


def conflicts(lines: Sequence[Line], protected: Mapping[str, Protected]) -> None:
    """Refuses what the bench itself needs otherwise.

    Raises:
        EnvironmentConflict: Naming what is asked for and what the bench has and needs.
    """
    for line in lines:
        own = protected.get(line.name)
        if own is not None and line.here and not line.allows(own.version):
            raise conflict(line.text, "the environment", line.name, own)


def explained(
    error: errors.EnvironmentFailed, protected: Mapping[str, Protected]
) -> errors.EnvironmentFailed:
    """The same refusal, or, where uv says that something needs what the bench has otherwise, the
    conflict with both requirements."""
    words = " ".join(str(error.details["uv"]).split())
    for found in _MENTION.finditer(words):
        name, wanted = canonicalize_name(found["name"]), found["wanted"].rstrip(".,")
        own = protected.get(name)
        if own is None or SpecifierSet(wanted).contains(own.version, prereleases=True):
            continue
        needing = _NEEDING.search(words[: found.start()])
        by = needing[1] if needing else "the environment"
        return conflict(f"{name}{wanted}", by, name, own, uv=error.details["uv"])
    return error


def conflict(
    required: str, required_by: str, name: str, own: Protected, **details: str
) -> errors.EnvironmentConflict:
    """The error that names both requirements."""
    bench = f"{name}=={own.version}"
    return errors.EnvironmentConflict(
        f"{required_by} needs {required}, but the bench runs with {bench}: {own.needed_by}",
        field="environment",
        reason="conflict_with_bench",
        package=name,
        required=required,
        required_by=required_by,
        bench=bench,
        bench_needs=own.needed_by,
        **details,
    )


def same(one: str | None, other: str | None) -> bool:
    """Whether two texts stand for one version."""
    if one is None or other is None:
        return False
    try:
        return Version(one) == Version(other)
    except InvalidVersion:
        return one == other


def pins_of(lines: Sequence[Line], installed: Mapping[str, str], hashed: bool) -> Pins:
    """The pins of pinned lines over a base where this is installed."""
    active = [line for line in lines if line.here]
    return Pins(
        packages={
            line.name: line.path or line.requirement.url or line.version or "" for line in active
        },
        lines=tuple(
            line.text
            for line in active
            if line.version is None or not same(line.version, installed.get(line.name))
        ),
        hashed=hashed,
    )


def wheels(spec: EnvSpec, folder: Path | None) -> dict[str, str]:
    """SHA-256 by path of the distributions inside the project's folder that it may install.

    Raises:
        EnvironmentFailed: A folder or wheel is not there, by its path.
    """
    if not spec.installs:
        return {}
    found = [line.path for line in given(spec) if line.path is not None]
    for links in spec.find_links:
        place = confined(folder, links)
        if not place.is_dir():
            raise _missing(links)
        found += [f"{links}/{p.name}" for p in place.iterdir() if p.name.endswith(DISTRIBUTIONS)]
    return {path: _sha256(confined(folder, path), path) for path in sorted(set(found))}


def needs_folder(spec: EnvSpec) -> bool:
    """Whether something that it installs lies in the project's folder.

    Raises:
        EnvironmentFailed: A line is no requirement, by field and line.
    """
    return spec.installs and bool(spec.find_links or any(line.path for line in given(spec)))


def confined(folder: Path | None, path: str) -> Path:
    """Where a path inside the project's folder is.

    Raises:
        EnvironmentFailed: It leads out of the folder, or there is no folder.
    """
    if folder is None:
        raise errors.EnvironmentFailed(
            f"{path!r} is looked for in the project's folder, and it was sent without one",
            field="environment",
            reason="no_folder",
            path=path,
        )
    place = (folder / path).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise errors.EnvironmentFailed(
            f"{path!r} leads out of the project's folder",
            field="environment",
            reason="outside",
            path=path,
        )
    return place


def _line(line: str, field: str) -> Line:
    hashes = tuple(_HASH.findall(line))
    text = _HASH.sub("", line).strip()
    if text.startswith("-"):
        raise _refused(
            field, line, "option", "is an option: package indexes come from uv's settings"
        )
    if "@" not in text and "://" not in text and text.split(";")[0].strip().endswith(DISTRIBUTIONS):
        path, _, marker = (part.strip() for part in text.partition(";"))
        return _wheel(field, line, path, marker, hashes)
    try:
        requirement = Requirement(text)
    except InvalidRequirement as e:
        raise _refused(field, line, "no_requirement", f"is no requirement: {e}") from e
    url = requirement.url
    if url is None or "://" in url:
        if url is not None and url.startswith("file:"):
            raise _refused(field, line, "outside", "must be a path inside the project's folder")
        return Line(field, line, requirement, None, hashes)
    requirement.url = None
    return Line(field, line, requirement, _relative(field, line, url), hashes)


def _wheel(field: str, line: str, path: str, marker: str, hashes: tuple[str, ...]) -> Line:
    try:
        name = parse_wheel_filename(path.rpartition("/")[2])[0]
        requirement = Requirement(f"{name}; {marker}" if marker else name)
    except (InvalidWheelFilename, InvalidRequirement) as e:
        raise _refused(field, line, "no_requirement", f"is no wheel: {e}") from e
    return Line(field, line, requirement, _relative(field, line, path), hashes)


def _relative(field: str, line: str, path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise _refused(field, line, "outside", "must be a path inside the project's folder")
    return path.removeprefix("./")


def _locked(text: str) -> Iterator[Line]:
    lines = list(parse(text, "lock"))
    hashed = any(line.hashes for line in lines)
    for line in lines:
        url = line.requirement.url
        fixed = line.path or (url and (line.hashes or _COMMIT.search(url)))
        if not (fixed or line.version):
            raise _refused("lock", line.text, "not_pinned", "is not pinned to one version")
        if hashed and not line.hashes and line.here:
            raise _refused("lock", line.text, "hash_missing", "has no hash, as other lines have")
        yield line


def _sha256(place: Path, path: str) -> str:
    try:
        with place.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise _missing(path) from None


def _missing(path: str) -> errors.EnvironmentFailed:
    return errors.EnvironmentFailed(
        f"there is no {path!r} in the project's folder",
        field="environment",
        reason="missing",
        path=path,
    )


def _refused(field: str, line: str, reason: str, what: str) -> errors.EnvironmentFailed:
    return errors.EnvironmentFailed(
        f"{field}: {line!r} {what}", field=f"environment.{field}", reason=reason, line=line
    )
