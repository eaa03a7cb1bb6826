"""Files of the workspace: written whole, referenced in state, and checked when they are read.

State holds a reference and the file's digest. Whoever loads it gets exactly the bytes that the node
left which wrote it, or `ArtefactChanged`: a state and the files of another moment do not mix. Arrays
are `.npz` without pickles; equal arrays make equal bytes.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wtb_ray.context import workspace
from wtb_ray.examples.arrays import unpacked
from wtb_ray.examples.ml.state import Artefact

Arrays = dict[str, NDArray[Any]]


class ArtefactChanged(RuntimeError):
    """A file is not there, or not the one that the state speaks of."""


def save(path: str, content: bytes) -> Artefact:
    """Write a file below the workspace; one that was there is replaced."""
    target = place(path)
    target.write_bytes(content)
    return Artefact(
        ref=workspace().ref(target),
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
    )


def place(path: str) -> Path:
    """Where a file of the workspace goes, with the folders above it."""
    target = workspace() / path
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def load(artefact: Artefact) -> bytes:
    """What `save` wrote.

    Raises:
        ArtefactChanged: The file is gone, or has other content.
    """
    ref = artefact["ref"]
    try:
        content = workspace().resolve(ref).read_bytes()
    except FileNotFoundError as e:
        raise ArtefactChanged(f"{ref} is not there") from e
    if hashlib.sha256(content).hexdigest() != artefact["sha256"]:
        raise ArtefactChanged(f"{ref} is not the file that this state speaks of")
    return content


def save_arrays(path: str, arrays: Arrays) -> Artefact:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # its flag has a place among the arrays
    return save(path, buffer.getvalue())


def load_arrays(artefact: Artefact) -> Arrays:
    return unpacked(load(artefact))


def save_json(path: str, value: Any) -> Artefact:
    return save(path, json.dumps(value, indent=2, sort_keys=True).encode() + b"\n")


def load_json(artefact: Artefact) -> Any:
    return json.loads(load(artefact))
