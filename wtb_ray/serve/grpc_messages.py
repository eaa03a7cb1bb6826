"""Between the messages of `wtb.v1` and the models: no decisions, no I/O."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel, ValidationError

from wtb_ray import errors
from wtb_ray.api import BatchTestRequest, ExecuteRequest, Progress
from wtb_ray.events import EventRow
from wtb_ray.model import Execution, Fault
from wtb_ray.rpc import batch_pb2, execution_pb2
from wtb_ray.serve.context import invalid
from wtb_ray.serve.strict_json import parse

Model = TypeVar("Model", bound=BaseModel)


def execute_request(message: execution_pb2.StartExecutionRequest) -> ExecuteRequest:
    """The request that HTTP would have had.

    Raises:
        InvalidRequest: A field cannot be used.
    """
    return _made(
        ExecuteRequest,
        initial_state=_value(message.initial_state, "initial_state", {}),
        variant_config=dict(message.variant_config),
        breakpoints=list(message.breakpoints),
        recursion_limit=_optional(message, "recursion_limit"),
        version=_optional(message, "version"),
        priority=message.priority,
    )


def batch_request(message: batch_pb2.RunBatchTestRequest) -> BatchTestRequest:
    """The request that HTTP would have had.

    Raises:
        InvalidRequest: A field cannot be used.
    """
    fields = {
        "project": message.project,
        "version": _optional(message, "version"),
        "variant_matrix": [dict(binding.nodes) for binding in message.variant_matrix],
        "test_cases": [_case(c, f"test_cases.{i}") for i, c in enumerate(message.test_cases)],
        "scorers": [
            {"name": s.name, "args": _value(s.args, f"scorers.{i}.args", {})}
            for i, s in enumerate(message.scorers)
        ],
        "repetitions": _optional(message, "repetitions"),
        "node_errors": message.node_errors or None,
        "priority": message.priority,
        "recursion_limit": _optional(message, "recursion_limit"),
    }
    return _made(BatchTestRequest, **{k: v for k, v in fields.items() if v is not None})


def _case(message: batch_pb2.TestCase, field: str) -> dict[str, Any]:
    return {
        "id": message.id,
        "input": _value(message.input, f"{field}.input", {}),
        "expected": _value(message.expected, f"{field}.expected", None),
        "metadata": _value(message.metadata, f"{field}.metadata", {}),
    }


def execution(model: Execution) -> execution_pb2.Execution:
    return execution_pb2.Execution(
        **_present(
            model,
            "id project version binding reason thread_id head head_step recursion_limit breakpoints"
            " batch_id case_id repetition attempt latency_ms node_runs",
        ),
        status=f"EXECUTION_STATUS_{model.status}",
        error=_fault(model.error),
        created_at=_timestamp(model.created_at),
        started_at=_timestamp(model.started_at),
        ended_at=_timestamp(model.ended_at),
    )


def _fault(model: Fault | None) -> execution_pb2.Fault | None:
    if model is None:
        return None
    return execution_pb2.Fault(**_present(model, "code type message node attempt traceback"))


def event(row: EventRow) -> execution_pb2.Event:
    return execution_pb2.Event(
        **_present(row, "cursor type project execution_id batch_id actor"),
        at=_timestamp(row.at),
        payload=json.dumps(row.payload, ensure_ascii=False, separators=(",", ":")),
    )


def of(row: EventRow, project: str, actor: str) -> bool:
    """Whether the event is of this project and by this actor; empty means any."""
    if project and row.project != project:
        return False
    if actor.endswith("*"):
        return row.actor.startswith(actor[:-1])
    return not actor or row.actor == actor


def progress(model: Progress) -> batch_pb2.BatchTestProgress:
    return batch_pb2.BatchTestProgress(
        **_present(model, "total counts finished percent rate remaining_s"),
        batch_id=model.id,
        status=f"BATCH_STATUS_{model.status}",
    )


def _present(model: BaseModel, names: str) -> Mapping[str, Any]:
    """The named fields that are not None: absent fields of a message are left out."""
    fields = {name: getattr(model, name) for name in names.split()}
    return {name: value for name, value in fields.items() if value is not None}


def _optional(message: Any, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None


def _timestamp(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def _value(text: str, field: str, default: Any) -> Any:
    if not text:
        return default
    try:
        return parse(text.encode())
    except json.JSONDecodeError as e:
        raise errors.InvalidRequest(
            f"{field} is no JSON: {e}", field=field, reason=f"no JSON: {e.msg}"
        ) from e


def _made(kind: type[Model], **fields: Any) -> Model:
    try:
        return kind(**fields)
    except ValidationError as e:
        raise invalid(e) from e
