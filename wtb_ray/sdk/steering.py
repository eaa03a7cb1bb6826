"""Control and time travel in several calls: commands that go on as operations, and waiting for rest.

Flows without I/O, as in `flows`; both benches run the same ones.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar

from pydantic import TypeAdapter

from wtb_ray import api, control, errors
from wtb_ray.model import Execution as ExecutionInfo
from wtb_ray.model import ProjectVersion
from wtb_ray.sdk import calls, flows, steering_calls
from wtb_ray.sdk.calls import Call
from wtb_ray.sdk.flows import Flow, Patience, ask, made
from wtb_ray.sdk.project import WorkflowProject
from wtb_ray.sdk.views import Execution
from wtb_ray.states import ExecutionStatus

Result = TypeVar("Result")


class ForkOptions(TypedDict, total=False):
    """What else a fork may be given."""

    node: str
    """Instead of a checkpoint: where the newest run of this node ended, or began."""
    where: str
    version: str
    """A registered version of the project."""
    as_node: str
    replace: bool
    breakpoints: Sequence[str]
    recursion_limit: int
    mode: str


class StateOptions(TypedDict, total=False):
    """How a state is changed."""

    as_node: str
    """Whose write it shall be: the nodes after it come next."""
    replace: bool
    """Overwrite instead of reducing."""
    cell: int | None
    """Which of the cells that share the execution is meant; it goes on alone."""


def operated(call: Call[Result | control.Operation], kind: Any) -> Flow[Result]:
    """The result of a command, also of one that goes on as an operation."""
    found = yield from ask(call)
    if not isinstance(found, control.Operation):
        return found
    patience = Patience()
    operation = found
    while operation.status == "RUNNING":
        yield patience.pause(f"operation {operation.id}", operation.status)
        operation = yield from ask(steering_calls.operation(operation.id))
    result: Result = result_of(operation, kind)
    return result


def result_of(operation: control.Operation, kind: Any) -> Any:
    """What an operation that has ended gave.

    Raises:
        WTBError: What it failed with.
    """
    if operation.error is not None:
        raise calls.error_from(operation.error)
    return TypeAdapter(kind).validate_python(operation.result, strict=False)


def moved(call: Call[ExecutionInfo], wait: bool, timeout: float | None) -> Flow[Execution]:
    """The execution after a command, once it rests again if that is wanted."""
    info = yield from ask(call)
    return (yield from _shown(info, wait, timeout))


def _shown(info: ExecutionInfo, wait: bool, timeout: float | None) -> Flow[Execution]:
    if wait:
        info = yield from flows.settled(info, timeout)
    return (yield from flows.with_state(info))


def pause(id: str, wait: bool, timeout: float | None, **request: Any) -> Flow[Execution]:
    """`request` as of `control.PauseRequest`."""
    wanted = made(control.PauseRequest, **_given(request))
    return moved(steering_calls.pause(id, wanted), wait, timeout)


def resume(id: str, wait: bool, timeout: float | None, **request: Any) -> Flow[Execution]:
    """`request` as of `control.ResumeRequest`."""
    call = steering_calls.resume(id, made(control.ResumeRequest, **_given(request)))
    info = yield from operated(call, ExecutionInfo)
    return (yield from _shown(info, wait, timeout))


def retry(
    id: str, recursion_limit: int | None, wait: bool, timeout: float | None
) -> Flow[Execution]:
    request = made(control.RetryRequest, recursion_limit=recursion_limit)
    return moved(steering_calls.retry(id, request), wait, timeout)


def answer(
    id: str,
    answers: Mapping[str, Any],
    resume: bool,
    cell: int | None,
    wait: bool,
    timeout: float | None,
) -> Flow[Execution]:
    request = made(control.AnswersRequest, answers=dict(answers), resume=resume, cell=cell)
    return moved(steering_calls.answer(id, request), wait and resume, timeout)


def set_breakpoints(id: str, breakpoints: Iterable[str]) -> Flow[Execution]:
    request = made(control.BreakpointsRequest, breakpoints=list(breakpoints))
    return moved(steering_calls.set_breakpoints(id, request), False, None)


def update_state(id: str, values: Mapping[str, Any], options: StateOptions) -> Flow[Execution]:
    request = made(control.StateRequest, values=dict(values), **options)
    info = yield from operated(steering_calls.change_state(id, request), ExecutionInfo)
    return (yield from flows.with_state(info))


def execute_node(id: str, node: str, state: Mapping[str, Any] | None) -> Flow[api.NodeOutcome]:
    request = made(control.ExecuteNodeRequest, state=None if state is None else dict(state))
    return operated(steering_calls.execute_node(id, node, request), api.NodeOutcome)


def reset(id: str, cell: int | None) -> Flow[Execution]:
    return moved(steering_calls.reset(id, made(control.ResetRequest, cell=cell)), False, None)


def rollback(id: str, **request: Any) -> Flow[Execution]:
    """`request` as of `control.RollbackRequest`."""
    wanted = made(control.RollbackRequest, **_given(request))
    return moved(steering_calls.rollback(id, wanted), False, None)


def fork(
    id: str, wait: bool, timeout: float | None, options: ForkOptions, **request: Any
) -> Flow[Execution]:
    """`request` as of `control.ForkRequest`; of several forks the first."""
    found = yield from forked(id, **request, **options)
    return (yield from _shown(found.executions[0], wait and bool(request.get("run")), timeout))


def forked(id: str, **request: Any) -> Flow[control.Forked]:
    """All forks of one request."""
    wanted = made(control.ForkRequest, **_given(request))
    return operated(steering_calls.fork(id, wanted), control.Forked)


def many(
    command: str, items: Iterable[Mapping[str, Any]] | Mapping[str, str]
) -> Flow[list[control.Outcome]]:
    """The outcomes of one command on many executions, in their order, in parts that are sent."""
    wanted: list[Mapping[str, Any]]
    if isinstance(items, Mapping):
        wanted = [{"execution_id": id, "checkpoint_id": place} for id, place in items.items()]
    else:
        wanted = list(items)
    outcomes: list[control.Outcome] = []
    for start in range(0, len(wanted), control.MOST_ITEMS):
        part = [{**item, "command": command} for item in wanted[start : start + control.MOST_ITEMS]]
        answer = yield from ask(steering_calls.many(made(control.ManyRequest, items=part)))
        outcomes += answer.items
    return outcomes


def swap(id: str, **request: Any) -> Flow[Execution]:
    """`request` as of `control.SwapRequest`."""
    wanted = made(control.SwapRequest, **_given(request))
    return moved(steering_calls.swap(id, wanted), False, None)


def state_diff(
    id: str, from_checkpoint: str | None, to_checkpoint: str | None, other: str | None
) -> Flow[dict[str, api.StateChange]]:
    call = calls.diff(
        id,
        None,
        1,
        from_checkpoint=from_checkpoint,
        to_checkpoint=to_checkpoint,
        other=other,
        state=True,
    )
    return (yield from ask(call)).state


def renewed(
    project: WorkflowProject, bundle: bytes | None, swap_paused: bool, binding: Mapping[str, str]
) -> Flow[control.Renewed]:
    """The project's new version and, if asked to, the paused executions that went over to it."""
    version: ProjectVersion = yield from flows.register(project.spec, bundle)
    swapped: list[control.Outcome] = []
    if swap_paused:
        paused = yield from flows.listed(_paused(project.name))
        for execution in paused:
            outcome = yield from _swapped(execution, version, binding)
            swapped.append(outcome)
    return control.Renewed(version=version, swapped=swapped)


def _paused(project: str) -> Callable[[str | None, int], Call[api.Page[ExecutionInfo]]]:
    status = str(ExecutionStatus.PAUSED)
    return lambda a, n: calls.executions(a, n, project=project, status=status)


def _swapped(
    execution: ExecutionInfo, version: ProjectVersion, binding: Mapping[str, str]
) -> Flow[control.Outcome]:
    about: dict[str, Any] = {"execution_id": execution.id, "command": "swap"}
    request = control.SwapRequest(version=version.version, variant_config=dict(binding))
    found = yield from ask(steering_calls.tried(steering_calls.swap(execution.id, request)))
    if isinstance(found, errors.WTBError):
        return control.Outcome(**about, ok=False, error=found.body())
    return control.Outcome(**about, ok=True, executions=[found])


def _given(request: Mapping[str, Any]) -> dict[str, Any]:
    """What was given; the defaults of the models stand for the rest."""
    given = {name: value for name, value in request.items() if value is not None}
    return {name: list(v) if name == "breakpoints" else v for name, v in given.items()}
