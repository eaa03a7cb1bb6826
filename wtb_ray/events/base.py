"""What all events have in common: their place in the log, and their payload."""

from typing import ClassVar

from wtb_ray import errors
from wtb_ray.frozen import Frozen, canonical


class Cursor(Frozen):
    """A position in the event log: transaction id and sequence number."""

    START: ClassVar["Cursor"]

    xid: int = 0
    seq: int = 0

    def __str__(self) -> str:
        return f"{self.xid}.{self.seq}"

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """The cursor of its text form.

        Raises:
            InvalidRequest: The text is no cursor.
        """
        xid, dot, seq = text.partition(".")
        if not (dot and xid.isdecimal() and seq.isdecimal()):
            raise errors.InvalidRequest(
                f"after={text!r} is not a cursor", field="after", reason="form is <xid>.<seq>"
            )
        return cls(xid=int(xid), seq=int(seq))


Cursor.START = Cursor()


class Event(Frozen):
    """Base of all events; ids are columns of the row, fields are its payload."""

    type: str

    def payload(self) -> str:
        """Canonical JSON of the fields without the type."""
        return canonical(self.model_dump(mode="json", exclude={"type"}))
