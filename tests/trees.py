"""File trees for tests: random ones, made on disk and looked at without the code under test."""

import os
import random
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from wtb_ray import manifests
from wtb_ray.objects import ObjectStore

ROOT = os.geteuid() == 0
"""Whom no mode keeps out; others need their own bits to look at what was made."""


class File(NamedTuple):
    data: bytes
    mode: int


class Link(NamedTuple):
    target: str


class Folder(NamedTuple):
    mode: int
    inside: "Mapping[str, File | Link | Folder]"


Node = File | Link | Folder
Seen = dict[str, tuple[str, bytes, int]]
"""Path -> kind, content or target, mode."""

NAMES = st.one_of(
    st.sampled_from(["a", "b", "c", "ä", "with space", "-x", "a\nb", "nul.txt"]),
    st.sampled_from([os.fsdecode(name) for name in (b"\xff", b"a\xfe\x80", b"\\xff", b"\xc3")]),
)
FILES = st.builds(
    File,
    st.sampled_from([b"", b"one", b"two", b"three", bytes(5000)]),
    st.sampled_from([0o644, 0o600, 0o755, 0o444, 0o000 if ROOT else 0o400]),
)
LINKS = st.builds(Link, st.sampled_from(["a", "b/c", "./nowhere", "c/../a", os.fsdecode(b"\xff")]))
MODES = st.sampled_from([0o755, 0o700, 0o777, 0o555])


def folders(names: st.SearchStrategy[str] = NAMES) -> st.SearchStrategy[Folder]:
    """Random trees."""

    def level(inside: st.SearchStrategy[Node]) -> st.SearchStrategy[Folder]:
        return st.builds(Folder, MODES, st.dictionaries(names, inside, max_size=5))

    return level(st.recursive(FILES | FILES | LINKS, level, max_leaves=14))


def make(root: Path, folder: Folder) -> None:
    """Makes a directory hold exactly this; files that were there already are written in place."""
    for name in os.listdir(root):
        if name not in folder.inside:
            _remove(root / name)
    for name, node in folder.inside.items():
        path = root / name
        if isinstance(node, Folder):
            if path.is_symlink() or not path.is_dir():
                _remove(path)
                path.mkdir()
            path.chmod(0o755)
            make(path, node)
            path.chmod(node.mode)
        elif isinstance(node, Link):
            _remove(path)
            path.symlink_to(node.target)
        else:
            if path.is_symlink() or not path.is_file():
                _remove(path)
                path.touch()
            path.chmod(0o644)
            path.write_bytes(node.data)
            path.chmod(node.mode)


def look(root: Path) -> Seen:
    """What is there."""
    seen: Seen = {}
    for above, directories, files in os.walk(root):
        for name in directories + files:
            path = Path(above) / name
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                seen[_inside(root, path)] = ("link", os.fsencode(os.readlink(path)), 0)
            elif stat.S_ISDIR(mode):
                seen[_inside(root, path)] = ("dir", b"", stat.S_IMODE(mode))
            else:
                seen[_inside(root, path)] = ("file", path.read_bytes(), stat.S_IMODE(mode))
    return seen


async def stored(objects: ObjectStore, manifest: str) -> Seen:
    """What a manifest says, with every object read from the store."""
    seen: Seen = {}
    pending = [("", manifest)]
    while pending:
        above, digest = pending.pop()
        for entry in manifests.decoded(digest, await objects.get(digest)):
            path = f"{above}{entry.name}"
            if entry.kind == "dir":
                seen[path] = ("dir", b"", entry.mode)
                pending.append((f"{path}/", entry.value))
            elif entry.kind == "link":
                seen[path] = ("link", os.fsencode(entry.value), 0)
            else:
                seen[path] = ("file", await objects.get(entry.value), entry.mode)
    return seen


def _inside(root: Path, path: Path) -> str:
    return str(path.relative_to(root))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for above, _, _ in os.walk(path):
            os.chmod(above, 0o755)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def random_folder(chance: random.Random, depth: int = 3) -> Folder:
    """A tree without the help of hypothesis."""
    inside: dict[str, Node] = {}
    for name in chance.sample(
        ["a", "b", "c", "d", "e", os.fsdecode(b"\xff\n")], chance.randint(0, 5)
    ):
        kind = chance.random()
        if kind < 0.35 and depth:
            inside[name] = random_folder(chance, depth - 1)
        elif kind < 0.5:
            inside[name] = Link(chance.choice(["a", "b/c", "nowhere"]))
        else:
            size = chance.choice([0, 10, 3000, 20_000])
            inside[name] = File(chance.randbytes(size), chance.choice([0o644, 0o600, 0o755]))
    return Folder(chance.choice([0o755, 0o700]), inside)
