"""Requests of control, history and time travel: said once, without I/O, like `calls`."""

from typing import Final, TypeVar

import httpx
from pydantic import BaseModel

from wtb_ray import api, control, errors
from wtb_ray.model import Batch, Execution, Frozen, ProjectVersion
from wtb_ray.sdk.calls import REGISTER_TIMEOUT_S, Call, answered, error_of, get, quoted, send

Result = TypeVar("Result")

COMMAND_TIMEOUT_S = 60.0
"""Ten seconds for the command itself, and the start of a runner where it needs one."""


REFUSALS: Final = frozenset({403, 404, 409, 422})


class _Nothing(Frozen):
    """The body of a command without one."""


def _of(id: str, command: str) -> str:
    return f"/executions/{quoted(id)}/{command}"


def _command(method: str, path: str, body: BaseModel, kind: type[Result]) -> Call[Result]:
    return send(method, path, body, kind, COMMAND_TIMEOUT_S)


def operating(
    method: str, path: str, body: BaseModel, kind: type[Result]
) -> Call[Result | control.Operation]:
    """A command that may be answered with an operation."""
    whole, later = answered(kind), answered(control.Operation)

    def parse(response: httpx.Response) -> Result | control.Operation:
        found: Result | control.Operation = (later if response.status_code == 202 else whole)(
            response
        )
        return found

    call = _command(method, path, body, kind)
    return Call(**{**vars(call), "parse": parse})


def tried(call: Call[Result]) -> Call[Result | errors.WTBError]:
    """The same call, with a refusal as its answer."""

    def parse(response: httpx.Response) -> Result | errors.WTBError:
        return call.parse(response) if response.is_success else error_of(response)

    return Call(**{**vars(call), "parse": parse, "accepts": REFUSALS})


def operation(id: str) -> Call[control.Operation]:
    return get(f"/operations/{quoted(id)}", control.Operation)


def pause(id: str, request: control.PauseRequest) -> Call[Execution]:
    return _command("POST", _of(id, "pause"), request, Execution)


def resume(id: str, request: control.ResumeRequest) -> Call[Execution | control.Operation]:
    return operating("POST", _of(id, "resume"), request, Execution)


def step(id: str) -> Call[Execution]:
    return _command("POST", _of(id, "step"), _Nothing(), Execution)


def retry(id: str, request: control.RetryRequest) -> Call[Execution]:
    return _command("POST", _of(id, "retry"), request, Execution)


def interrupts(id: str) -> Call[list[control.Question]]:
    return get(_of(id, "interrupts"), list[control.Question])


def answer(id: str, request: control.AnswersRequest) -> Call[Execution]:
    return _command("POST", _of(id, "interrupts"), request, Execution)


def breakpoints(id: str) -> Call[control.BreakpointsRequest]:
    return get(_of(id, "breakpoints"), control.BreakpointsRequest)


def set_breakpoints(id: str, request: control.BreakpointsRequest) -> Call[Execution]:
    return _command("PUT", _of(id, "breakpoints"), request, Execution)


def change_state(id: str, request: control.StateRequest) -> Call[Execution | control.Operation]:
    return operating("PATCH", _of(id, "state"), request, Execution)


def execute_node(
    id: str, node: str, request: control.ExecuteNodeRequest
) -> Call[api.NodeOutcome | control.Operation]:
    path = _of(id, f"nodes/{quoted(node, '/')}/execute")
    return operating("POST", path, request, api.NodeOutcome)


def reset(id: str, request: control.ResetRequest) -> Call[Execution]:
    return _command("POST", _of(id, "reset"), request, Execution)


def rollback(id: str, request: control.RollbackRequest) -> Call[Execution]:
    return _command("POST", _of(id, "rollback"), request, Execution)


def fork(id: str, request: control.ForkRequest) -> Call[control.Forked | control.Operation]:
    return operating("POST", _of(id, "fork"), request, control.Forked)


def swap(id: str, request: control.SwapRequest) -> Call[Execution]:
    return _command("POST", _of(id, "swap"), request, Execution)


def many(request: control.ManyRequest) -> Call[control.Outcomes]:
    return _command("POST", "/executions/batch", request, control.Outcomes)


def branches(id: str) -> Call[control.BranchTree]:
    return get(_of(id, "branches"), control.BranchTree)


def nodes(id: str) -> Call[list[control.NodeHistory]]:
    return get(_of(id, "nodes"), list[control.NodeHistory])


def pause_batch(id: str) -> Call[Batch]:
    return _command("POST", f"/batch-tests/{quoted(id)}/pause", _Nothing(), Batch)


def resume_batch(id: str) -> Call[Batch]:
    return _command("POST", f"/batch-tests/{quoted(id)}/resume", _Nothing(), Batch)


def change_project(name: str, change: control.ProjectChange) -> Call[ProjectVersion]:
    return _command("PATCH", f"/workflows/{quoted(name)}", change, ProjectVersion)


def remove_project(name: str) -> Call[ProjectVersion]:
    return send("DELETE", f"/workflows/{quoted(name)}", None, ProjectVersion, COMMAND_TIMEOUT_S)


def _variants(project: str, node: str) -> str:
    return f"/workflows/{quoted(project)}/nodes/{quoted(node, '/')}/variants"


def add_variant(project: str, node: str, variant: control.NewVariant) -> Call[ProjectVersion]:
    path = _variants(project, node)
    return send("POST", path, variant, ProjectVersion, REGISTER_TIMEOUT_S)


def change_variant(
    project: str, node: str, variant: str, change: control.VariantChange
) -> Call[ProjectVersion]:
    path = f"{_variants(project, node)}/{quoted(variant)}"
    return send("PATCH", path, change, ProjectVersion, REGISTER_TIMEOUT_S)


def remove_variant(project: str, node: str, variant: str) -> Call[ProjectVersion]:
    path = f"{_variants(project, node)}/{quoted(variant)}"
    return send("DELETE", path, None, ProjectVersion, REGISTER_TIMEOUT_S)
