"""Between the messages of `wtb.v1` and the models: no decisions, no I/O."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel, ValidationError

from wtb_ray import errors
from wtb_ray.api import ExecuteRequest
from wtb_ray.events import EventRow
from wtb_ray.model import Execution, Fault, Parking
from wtb_ray.rpc import execution_pb2
from wtb_ray.serve.context import invalid
from wtb_ray.serve.strict_json import parse

Model = TypeVar("Model", bound=BaseModel)


def execute_request(message: execution_pb2.StartExecutionRequest) -> ExecuteRequest:
    """The request that HTTP would have had.

    Raises:
        InvalidRequest: A field cannot be used.
    """
    return made(
        ExecuteRequest,
        initial_state=value(message.initial_state, "initial_state", {}),
        variant_config=dict(message.variant_config),
        breakpoints=list(message.breakpoints),
        recursion_limit=optional(message, "recursion_limit"),
        version=optional(message, "version"),
        priority=message.priority,
        deadline_s=optional(message, "deadline_s"),
    )


def execution(model: Execution) -> execution_pb2.Execution:
    return execution_pb2.Execution(
        **present(
            model,
            "id project version binding reason thread_id head head_step recursion_limit breakpoints"
            " batch_id case_id repetition attempt latency_ms node_runs wanted deadline_s forked_from"
            " forked_at",
        ),
        status=f"EXECUTION_STATUS_{model.status}",
        error=fault(model.error),
        parking=_parking(model.parking),
        created_at=timestamp(model.created_at),
        started_at=timestamp(model.started_at),
        ended_at=timestamp(model.ended_at),
    )


def fault(model: Fault | None) -> execution_pb2.Fault | None:
    if model is None:
        return None
    return execution_pb2.Fault(**present(model, "code type message node attempt traceback"))


def _parking(model: Parking | None) -> execution_pb2.Parking | None:
    if model is None:
        return None
    return execution_pb2.Parking(**present(model, "strategy kept released left_out runner host"))


def event(row: EventRow) -> execution_pb2.Event:
    return execution_pb2.Event(
        **present(row, "cursor type project execution_id batch_id actor"),
        at=timestamp(row.at),
        payload=as_json(row.payload),
    )


def of(row: EventRow, project: str, actor: str) -> bool:
    """Whether the event is of this project and by this actor; empty means any."""
    if project and row.project != project:
        return False
    if actor.endswith("*"):
        return row.actor.startswith(actor[:-1])
    return not actor or row.actor == actor


def present(model: BaseModel, names: str) -> Mapping[str, Any]:
    """The named fields that are not None: absent fields of a message are left out."""
    fields = {name: getattr(model, name) for name in names.split()}
    return {name: value for name, value in fields.items() if value is not None}


def optional(message: Any, name: str) -> Any:
    """The value of an optional field; None where it is absent."""
    return getattr(message, name) if message.HasField(name) else None


def timestamp(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def as_json(value: Any) -> str:
    """The JSON text of a value."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def value(text: str, field: str, default: Any) -> Any:
    """The value of a JSON text; the default of an empty one.

    Raises:
        InvalidRequest: It is no JSON.
    """
    if not text:
        return default
    try:
        return parse(text.encode())
    except json.JSONDecodeError as e:
        raise errors.InvalidRequest(
            f"{field} is no JSON: {e}", field=field, reason=f"no JSON: {e.msg}"
        ) from e


def made(kind: type[Model], **fields: Any) -> Model:
    """A model of these fields.

    Raises:
        InvalidRequest: One of them cannot be used.
    """
    try:
        return kind(**fields)
    except ValidationError as e:
        raise invalid(e) from e
