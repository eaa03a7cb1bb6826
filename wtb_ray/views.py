"""Stored values as plain JSON for people: no class is imported, objects are `{"__type__": ...}`."""

import base64
import importlib
import json
import math
from collections.abc import Sequence
from typing import Any, Final

import ormsgpack
from langgraph.checkpoint.serde import jsonplus

from wtb_ray import errors
from wtb_ray.db import Database, queries

SQL: Final = queries("saver")


def view(type_: str, data: bytes) -> Any:
    """A stored value as plain JSON; objects are `{"__type__": "pkg.Class", ...}`."""
    if type_ == "null":
        return None
    if type_ in ("bytes", "bytearray"):
        return plain(data)
    if type_ == "json":
        return plain(json.loads(data))
    if type_ == "msgpack":
        return plain(_view_msgpack(data))
    return {"__type__": type_, "base64": base64.b64encode(data).decode()}


def _view_msgpack(data: bytes) -> Any:
    return ormsgpack.unpackb(data, ext_hook=_view_object, option=ormsgpack.OPT_NON_STR_KEYS)


def _view_object(code: int, data: bytes) -> Any:
    payload = _view_msgpack(data)
    if code == jsonplus.EXT_DELTA_SNAPSHOT:
        return payload
    if code == jsonplus.EXT_NUMPY_ARRAY:
        dtype, shape, order, buffer = payload
        numpy: Any = importlib.import_module("numpy")
        values = numpy.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)
        return {"__type__": "numpy.ndarray", "dtype": dtype, "values": values.tolist()}
    module, name, value = payload[:3]
    if (module, name) == ("builtins", "tuple"):
        return value
    shown = {"__type__": f"{module}.{name}"}
    return {**shown, **value} if isinstance(value, dict) else {**shown, "value": value}


def plain(value: Any) -> Any:
    """The value with everything that JSON cannot hold replaced by something that it can."""
    cls = type(value)
    if cls is str:
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if cls is dict:
        return {key if type(key) is str else str(key): plain(item) for key, item in value.items()}
    if cls in (list, tuple):
        return [plain(item) for item in value]
    if cls in (bytes, bytearray):
        return {"__type__": f"builtins.{cls.__name__}", "base64": base64.b64encode(value).decode()}
    if cls is float and not math.isfinite(value):
        return {"__type__": "builtins.float", "value": str(value)}
    return value if cls in (int, float, bool, type(None)) else str(value)


async def read_state(
    db: Database, thread_id: str, checkpoint_id: str, channels: Sequence[str] | None = None
) -> dict[str, Any]:
    """The state at a root checkpoint as plain JSON, without LangGraph's own channels.

    Raises:
        UnknownCheckpoint: The thread has no such checkpoint.
    """
    row = await db.row(SQL["state"], (thread_id, checkpoint_id))
    if row is None:
        raise errors.UnknownCheckpoint(
            f"{thread_id} has no checkpoint {checkpoint_id}", checkpoint_id=checkpoint_id
        )
    inline, versions = row["inline"] or {}, row["versions"] or {}
    wanted = [
        channel
        for channel in versions.keys() | inline.keys()
        if (channel in channels if channels is not None else _is_users(channel))
    ]
    state = {channel: plain(inline[channel]) for channel in wanted if channel in inline}
    blobs = [channel for channel in wanted if channel in versions]
    if len(state) < len(wanted):
        found = await db.rows(
            SQL["state_blobs"],
            (blobs, [versions[channel] for channel in blobs], thread_id),
        )
        state |= {blob["channel"]: view(blob["type"], blob["blob"]) for blob in found}
    return dict(sorted(state.items()))


def _is_users(channel: str) -> bool:
    return channel == "__root__" or not channel.startswith(("__", "branch:", "join:"))
