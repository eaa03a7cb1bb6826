"""The index of the corpus: one file in the workspace, written by `load`, opened by the retrievers.

The state refers to it by a form that holds on any host, and says the file's digest. Whatever goes on
with an execution, in another process or directory, so searches the very index it began with, and
builds none. A process opens each part of an index once, whichever workspaces hold copies of it.
"""

import hashlib
import io
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from wtb_ray.context import workspace
from wtb_ray.errors import NodeFailed
from wtb_ray.examples.rag.corpus import corpus
from wtb_ray.examples.rag.state import IndexFile

Arrays = Mapping[str, NDArray[Any]]
Opened = TypeVar("Opened")

FILE: Final = "index.npz"
_CORPUS: Final = "corpus"
_OPENED_LIMIT: Final = 12

_lock = threading.RLock()
_opened: dict[tuple[str, str], Any] = {}


class Built(NamedTuple):
    """An index as the bytes of its file."""

    data: bytes
    digest: str


def packed(parts: Mapping[str, Arrays]) -> Built:
    """The parts in one file, the same bytes in every process that has the same corpus."""
    arrays: dict[str, Any] = {_CORPUS: np.array(corpus().digest)}
    for each, held in parts.items():
        arrays |= {f"{each}.{name}": array for name, array in held.items()}
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return Built(out.getvalue(), hashlib.sha256(out.getbuffer()).hexdigest())


def written(built: Built) -> IndexFile:
    """Write the file into the workspace of the running execution."""
    place = workspace()
    partial = place / f"{FILE}.{threading.get_ident()}.tmp"
    partial.write_bytes(built.data)
    # Outside the bench several runs may share a directory: none sees half of a file.
    os.replace(partial, place / FILE)
    place.commit()
    return {"ref": place.ref(FILE), "digest": built.digest}


def part(file: IndexFile, name: str, open_: Callable[[Arrays], Opened]) -> Opened:
    """A part of an index, opened by its first user in this process; other threads wait for it.

    Raises:
        NodeFailed: The file is not the one that the state speaks of, or of another corpus.
    """
    key = (file["digest"], name)
    with _lock:
        if key not in _opened:
            opened = open_(_arrays(file, name))
            if len(_opened) >= _OPENED_LIMIT:
                _opened.clear()
            _opened[key] = opened
        found: Opened = _opened[key]
        return found


def _arrays(file: IndexFile, part: str) -> Arrays:
    data = workspace().resolve(file["ref"]).read_bytes()
    if hashlib.sha256(data).hexdigest() != file["digest"]:
        raise NodeFailed(
            f"{file['ref']} is not the index that was built", field="index", reason="other_file"
        )
    with np.load(io.BytesIO(data)) as arrays:
        if str(arrays[_CORPUS]) != corpus().digest:
            raise NodeFailed(
                f"{file['ref']} indexes the documentation of another Python: go on with that one",
                field="index",
                reason="other_corpus",
            )
        names = [name for name in arrays.files if name.startswith(f"{part}.")]
        return {name.removeprefix(f"{part}."): arrays[name] for name in names}


def joined(words: list[str]) -> NDArray[np.uint8]:
    """Words, none of which has a line break, as an array."""
    return np.frombuffer("\n".join(words).encode(), np.uint8)


def split(array: NDArray[np.uint8]) -> list[str]:
    """The words of `joined`."""
    return array.tobytes().decode().split("\n")


def smallest(array: NDArray[Any]) -> NDArray[Any]:
    """The numbers, none of them negative, in the fewest bytes that hold them."""
    return array.astype(np.min_scalar_type(int(array.max(initial=0))))


def starts(lengths: NDArray[Any]) -> NDArray[np.int32]:
    """Where each of some lists begins that stand one after the other, and where the last ends."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
