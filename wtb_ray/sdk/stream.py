"""Reading the event log over server-sent events, without I/O: the next request, and byte by byte."""

from collections.abc import Iterator, Sequence

from wtb_ray.events import EventRow
from wtb_ray.sdk.calls import Call


class EventStream:
    """A place in the event log; after a lost connection the next request goes on from there."""

    def __init__(
        self,
        after: str | None,
        execution: str | None,
        batch: str | None,
        types: Sequence[str],
        follow: bool,
    ) -> None:
        self.after = after
        self.follow = follow
        self._where = {"execution": execution, "batch": batch, "type": ",".join(types) or None}
        self._rest = b""
        self._id: str | None = None
        self._data: list[str] = []

    def call(self) -> Call[None]:
        """The request for what comes after the last event read."""
        self._rest, self._id, self._data = b"", None, []
        given = {"after": self.after, **self._where, "follow": str(self.follow).lower()}
        params = {name: value for name, value in given.items() if value is not None}
        headers = {"Accept": "text/event-stream"}
        return Call("GET", "/events", lambda _: None, params=params, headers=headers)

    def feed(self, chunk: bytes) -> Iterator[EventRow]:
        """Take what has arrived; the events that it completes."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            row = self._line(line.removesuffix(b"\r").decode())
            if row is not None:
                yield row

    def _line(self, line: str) -> EventRow | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            self._id = value
        elif name == "data":
            self._data.append(value)
        return None

    def _dispatch(self) -> EventRow | None:
        text, self._data = "\n".join(self._data), []
        row = EventRow.model_validate_json(text, extra="ignore") if text else None
        if self._id is not None:  # an id alone says how far the log has been searched
            self.after, self._id = self._id, None
        return row
