"""The base: the interpreter that the bench runs in, which every environment lies over.

To be asked only in a process that runs in the base itself, never in one of an environment.
"""

import importlib.metadata
import platform
import site
import sys
import sysconfig
from collections import deque
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from wtb_ray.frozen import Frozen, digest

ROOTS: Final = ("wtb-ray", "ray[default,serve]")
EXAMPLES_ONLY: Final = frozenset({"bm25s", "scikit-learn"})
"""Requirements of wtb-ray that nothing but the shipped examples imports: a user's code may have other
versions of them without breaking the bench."""


class Base(Frozen):
    """An interpreter with what is installed there."""

    python: str
    """`"3.11.7"`."""
    platform: str
    """Operating system, machine and C library."""
    ray: str
    packages: dict[str, str]
    """Version by canonical name of every installed distribution."""
    executable: str
    """Its path on this host."""
    site: tuple[str, ...]
    """Its directories of packages on this host, in the order of `sys.path`."""
    digest: str
    """SHA-256 of all that is the same on every host of a cluster: all but the paths."""


class Protected(NamedTuple):
    """A distribution that the bench itself stands on."""

    version: str
    needed_by: str
    """Who requires it and how, such as `fastapi 0.120.0 requires pydantic>=2`."""


@cache
def base() -> Base:
    """The base that this process runs in.

    Raises:
        PackageNotFoundError: Ray is not installed in it.
    """
    places = _site()
    packages = {
        name: found.version for name, found in sorted(_distributions(tuple(places)).items())
    }
    if "ray" not in packages:
        raise importlib.metadata.PackageNotFoundError("ray")
    facts = {
        "python": platform.python_version(),
        "platform": "-".join((sysconfig.get_platform(), *platform.libc_ver())),
        "ray": packages["ray"],
        "packages": packages,
    }
    return Base.model_validate(
        {**facts, "executable": sys.executable, "site": places, "digest": digest(facts)}
    )


@cache
def protected() -> Mapping[str, Protected]:
    """By canonical name, what no environment may have in another version: the closure of the
    requirements of wtb-ray and Ray, as far as they are installed."""
    installed = _distributions(base().site)
    found: dict[str, Protected] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = deque((Requirement(root), "the bench") for root in ROOTS)
    while queue:
        requirement, parent = queue.popleft()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        distribution = installed.get(name)
        if distribution is None or (name, extras) in seen:
            continue
        seen.add((name, extras))
        version = distribution.version
        found.setdefault(name, Protected(version, f"{parent} requires {requirement}"))
        queue.extend(
            (child, f"{name} {version}") for child in _requires(distribution, name, extras)
        )
    return found


def _requires(
    distribution: importlib.metadata.Distribution, name: str, extras: frozenset[str]
) -> Iterator[Requirement]:
    """What a distribution requires here, with these extras."""
    for text in distribution.requires or ():
        requirement = Requirement(text)
        marker, requirement.marker = requirement.marker, None
        if marker and not any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            continue
        if name != "wtb-ray" or canonicalize_name(requirement.name) not in EXAMPLES_ONLY:
            yield requirement


def _site() -> list[str]:
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    wanted = dict.fromkeys((*user, *site.getsitepackages()))
    return [path for path in wanted if path in sys.path]


@cache
def _distributions(places: tuple[str, ...]) -> dict[str, importlib.metadata.Distribution]:
    found: dict[str, importlib.metadata.Distribution] = {}
    for distribution in importlib.metadata.distributions(path=list(places)):
        name: str | None = distribution.metadata["Name"]
        if name:  # what a broken uninstallation left has none
            found.setdefault(canonicalize_name(name), distribution)
    return found


def metadata(base: Base, name: str) -> str:
    """The metadata file of a distribution of the base."""
    found = _distributions(base.site)[name]
    return found.read_text("METADATA") or found.read_text("PKG-INFO") or ""
