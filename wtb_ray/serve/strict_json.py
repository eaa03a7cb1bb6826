"""JSON from outside, read as the standard says and kept as it was sent."""

import json
from typing import Any

import orjson


def parse(text: bytes) -> Any:
    """The value of a JSON text that can be stored and read back as it is.

    Raises:
        JSONDecodeError: No JSON; or NaN, a lone surrogate, too deep, or an integer beyond 64 bits,
            which Python's own parser lets through.
    """
    orjson.loads(text)
    return json.loads(text, parse_int=_integer)


def _integer(text: str) -> int:
    if len(text) > 20 or not -(1 << 63) <= (value := int(text)) < 1 << 64:
        raise json.JSONDecodeError("an integer that needs more than 64 bits", text, 0)
    return value
