"""The values of a checkpoint on their way to Postgres: plain ones inline in JSON, others as blobs.

The split is LangGraph's, except where JSONB would change a value: NUL, lone surrogates, floats that
come back as integers, subclasses of plain types. Those go to the blob table, where LangGraph's savers
find them too. Whatever is refused is refused with the channel's name.
"""

import json
import math
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any, Final

import orjson
from langgraph.checkpoint.base import ChannelVersions, Checkpoint
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.types import Send

from wtb_ray import errors, secret_values

Blob = tuple[str, str, str, bytes]
"""Channel, version, type, bytes."""

EXACT_FLOAT: Final = 1e16
"""From here on JSONB gives floats back as integers."""


def split(
    serde: SerializerProtocol,
    checkpoint: Checkpoint,
    new_versions: ChannelVersions,
    forbidden: str | None = None,
) -> tuple[bytes, list[Blob]]:
    """The checkpoint as JSON, and the blobs that it needs and may not have yet.

    Args:
        serde: Turns values into bytes.
        checkpoint: With all channel values.
        new_versions: The channels that changed since the last checkpoint.
        forbidden: A directory; strings and paths at or below it are refused.

    Raises:
        UnstorableValue: A value would not come back as its type, or is below `forbidden`.
    """
    inline: dict[str, Any] = {}
    blobs: list[Blob] = []
    for channel, value in checkpoint["channel_values"].items():
        if _is_plain(value):
            inline[channel] = value
            continue
        if isinstance(value, _DeltaSnapshot):
            inline[channel] = True
        if channel in new_versions:
            version = str(new_versions[channel])
            blobs.append((channel, version, *dump(serde, channel, value, forbidden)))
    text = json_text({**checkpoint, "channel_values": inline})
    if forbidden and forbidden.encode() in text:
        for channel, value in inline.items():
            _refuse_below(channel, value, forbidden)
    if secret_values.found_in(text) is not None:
        for channel, value in inline.items():
            _refuse_secret(channel, json_text(value))
    return text, blobs


def dump(
    serde: SerializerProtocol, channel: str, value: Any, forbidden: str | None = None
) -> tuple[str, bytes]:
    """One value as `(type, bytes)`; arguments and errors are those of `split`."""
    try:
        type_, data = serde.dumps_typed(value)
    except errors.UnstorableValue as e:
        raise errors.UnstorableValue(
            f"channel {channel!r}: {e.message}", **{**e.details, "channel": channel}
        ) from None
    if forbidden and (forbidden.encode() in data or b"pathlib" in data):
        _refuse_below(channel, value, forbidden)
    _refuse_secret(channel, data)
    return type_, data


def json_text(document: Any) -> bytes:
    """JSON for Postgres; what orjson refuses (large integers, odd keys) takes the slow way."""
    try:
        return orjson.dumps(document)
    except TypeError:
        return json.dumps(document).encode()


def _is_plain(value: Any) -> bool:
    """Whether JSONB gives exactly this value back."""
    cls = type(value)
    if cls is str:
        return "\x00" not in value and _is_unicode(value)
    if cls is float:
        return abs(value) < EXACT_FLOAT and (value != 0 or math.copysign(1, value) > 0)
    return cls is int or cls is bool or value is None


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_secret(channel: str, data: bytes) -> None:
    """Refuses a value that holds a secret, which must stand nowhere but where it comes from."""
    if (name := secret_values.found_in(data)) is not None:
        raise errors.UnstorableValue(
            f"channel {channel!r} holds the value of secret {name}: ask for it where it is needed",
            channel=channel,
            type="str",
            reason="a secret",
        )


def _refuse_below(channel: str, value: Any, directory: str) -> None:
    """Refuses a value that holds a path at or below the directory."""
    for path in _texts(value):
        if path == directory or path.startswith(f"{directory}/"):
            raise errors.UnstorableValue(
                f"channel {channel!r}: {path!r} is inside the workspace, which another run of this"
                " state would not have; store workspace().ref(path)",
                channel=channel,
                type="str",
                reason="a path inside the workspace",
            )


def _texts(value: Any) -> Iterator[str]:
    """All strings and paths inside a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, PurePath):
        yield str(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple | set | frozenset | deque):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, Send):
        yield from _texts(value.arg)
    elif hasattr(value, "__dict__"):
        yield from _texts(vars(value))
