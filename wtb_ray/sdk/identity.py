"""What a client calls itself, for the event log: a claim, since there are no tokens yet."""

import getpass
import os
import re
from typing import Final

ENVIRONMENT: Final = "WTB_ACTOR"
_OTHER = re.compile(r"[^\w.@+-]", re.ASCII)
LONGEST: Final = 64


def caller(tool: str) -> str:
    """`WTB_ACTOR`, else the user of this process and the tool: `ada@cli`."""
    name = os.environ.get(ENVIRONMENT) or f"{_user()}@{tool}"
    return _OTHER.sub("-", name)[:LONGEST]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number without a name
        return f"uid{os.getuid()}"
