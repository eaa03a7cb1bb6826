"""Control and time travel for programs and notebooks: a part of `WTBTestBench`."""

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, Unpack

from wtb_ray import api, control, model
from wtb_ray.sdk import calls, flows, steering, steering_calls
from wtb_ray.sdk.calls import Call
from wtb_ray.sdk.flows import AnyCases, Flow
from wtb_ray.sdk.project import WorkflowProject
from wtb_ray.sdk.steering import ForkOptions, StateOptions
from wtb_ray.sdk.views import Execution

Answer = TypeVar("Answer")


class Steering(abc.ABC):
    """What moves executions."""

    codes: flows.Codes

    @abc.abstractmethod
    def send(self, call: Call[Answer]) -> Answer:
        """The answer to one call."""

    @abc.abstractmethod
    def flow(self, flow: Flow[Answer]) -> Answer:
        """The result of several calls and of the pauses between them."""

    def pause(
        self,
        id: str,
        reason: str | None = None,
        wait: bool = True,
        timeout: float | None = None,
        strategy: str | None = None,
        expected_s: float | None = None,
    ) -> Execution:
        """Pause an execution: at once when it waits, after its present step when it runs.

        Args:
            wait: Return when it has paused, or ended meanwhile.
            timeout: Seconds to wait at most.
            strategy: `hot`, `warm` or `cold`: what it keeps meanwhile.
            expected_s: How long it will be paused; the strategy is chosen by it.

        Raises:
            InvalidTransition: It neither waits nor runs.
        """
        flow = steering.pause(
            id, wait, timeout, reason=reason, strategy=strategy, expected_s=expected_s
        )
        return self.flow(flow)

    def resume(
        self,
        id: str,
        state: Mapping[str, Any] | None = None,
        *,
        answers: Mapping[str, Any] | None = None,
        recursion_limit: int | None = None,
        wait: bool = True,
        timeout: float | None = None,
        **options: Unpack[StateOptions],
    ) -> Execution:
        """Send a paused execution on, past its breakpoint.

        Args:
            state: Changes of the state, made before it goes on.
            answers: To what it asks, by interrupt id; not together with `state`.
            recursion_limit: A new limit of super-steps.
            wait: Return when it has ended or paused again.
            timeout: Seconds to wait at most.
            options: `as_node`, `replace` and `cell`, as of `update_state`.

        Raises:
            InvalidTransition: It is not PAUSED.
            Conflict: It waits for answers.
            InvalidState: The state does not fit a channel; names it.
        """
        flow = steering.resume(
            id,
            wait,
            timeout,
            state=state,
            answers=answers,
            recursion_limit=recursion_limit,
            **options,
        )
        return self.flow(flow)

    def step(self, id: str, wait: bool = True, timeout: float | None = None) -> Execution:
        """Let a paused execution run one super-step."""
        return self.flow(steering.moved(steering_calls.step(id), wait, timeout))

    def retry(
        self,
        id: str,
        recursion_limit: int | None = None,
        wait: bool = True,
        timeout: float | None = None,
    ) -> Execution:
        """Let a failed execution go on from where it stands: finished nodes do not run again."""
        return self.flow(steering.retry(id, recursion_limit, wait, timeout))

    def interrupts(self, id: str) -> list[control.Question]:
        """What an execution asks, with the schema of an answer where the node gave one."""
        return self.send(steering_calls.interrupts(id))

    def answer(
        self,
        id: str,
        answers: Mapping[str, Any],
        *,
        resume: bool = True,
        cell: int | None = None,
        wait: bool = True,
        timeout: float | None = None,
    ) -> Execution:
        """Answer what an execution asks, by interrupt id, and send it on.

        Args:
            cell: Whose answer it is where several share the execution, as of `update_state`.

        Raises:
            Conflict: It does not ask this, or has its answer.
            InvalidAnswer: The answer does not fit the schema that the node gave.
        """
        return self.flow(steering.answer(id, answers, resume, cell, wait, timeout))

    def breakpoints(self, id: str) -> list[str]:
        """Where an execution pauses: `before:node` and `after:node`."""
        return self.send(steering_calls.breakpoints(id)).breakpoints

    def set_breakpoints(self, id: str, breakpoints: Iterable[str]) -> Execution:
        """Replace an execution's breakpoints, also while it runs; a node alone means before it."""
        return self.flow(steering.set_breakpoints(id, breakpoints))

    def update_state(
        self, id: str, values: Mapping[str, Any], **options: Unpack[StateOptions]
    ) -> Execution:
        """Change the state of a paused execution, as LangGraph's `update_state` does.

        Args:
            values: By channel; reducers take them as what a node wrote.
            options: `as_node`, whose write it shall be, so that the nodes after it come next;
                `replace`, to overwrite instead of reducing; `cell`, which of the cells that share
                the execution is meant: it gets one of its own first, and that is returned.

        Raises:
            InvalidState: A value does not fit its channel; names it.
            SharedExecution: Several cells share it, and none is named; `details` has their ids.
        """
        return self.flow(steering.update_state(id, values, options))

    def execute_node(
        self, id: str, node: str, state: Mapping[str, Any] | None = None
    ) -> api.NodeOutcome:
        """Run one node on a state, by default the newest one; nothing moves."""
        return self.flow(steering.execute_node(id, node, state))

    def reset(self, id: str, cell: int | None = None) -> Execution:
        """Put an execution back to its input, in a clean workspace; it is PAUSED then.

        Raises:
            InvalidTransition: It runs or has not begun.
        """
        return self.flow(steering.reset(id, cell))

    def rollback(
        self,
        id: str,
        checkpoint_id: str,
        *,
        pause: bool = False,
        mode: control.Mode = "clean",
        cell: int | None = None,
    ) -> Execution:
        """Put an execution back, or forward again, to a checkpoint, with its files; it is PAUSED then.

        Args:
            pause: Pause it first where it runs.
            mode: `as_it_stands` keeps what tasks of the next step had finished there.
            cell: Which goes back where several share the execution, as of `update_state`.

        Raises:
            UnknownCheckpoint: It has no such checkpoint.
            InvalidTransition: It runs, and `pause` was not asked for.
        """
        flow = steering.rollback(id, checkpoint_id=checkpoint_id, pause=pause, mode=mode, cell=cell)
        return self.flow(flow)

    def rollback_to_node(
        self,
        id: str,
        node: str,
        where: control.Where = "exit",
        *,
        pause: bool = False,
        mode: control.Mode = "clean",
        cell: int | None = None,
    ) -> Execution:
        """Put an execution back to where the newest run of a node ended, or began (`entry`)."""
        flow = steering.rollback(id, node=node, where=where, pause=pause, mode=mode, cell=cell)
        return self.flow(flow)

    def fork(
        self,
        id: str,
        checkpoint_id: str | None = None,
        state: Mapping[str, Any] | None = None,
        variant_config: Mapping[str, str] | None = None,
        run: bool = False,
        wait: bool = True,
        timeout: float | None = None,
        **options: Unpack[ForkOptions],
    ) -> Execution:
        """Make another execution that goes on from a checkpoint of this one, with its own files.

        Args:
            checkpoint_id: Unset: where it stands.
            state: Changes of the state.
            variant_config: Put over its binding; the variant `default` takes one back.
            run: Let it run; else it is PAUSED, for `resume`.
            wait: With `run`: return when it has ended or paused.
            timeout: Seconds to wait at most.
            options: `node` and `where` instead of a checkpoint, `version`, `as_node`, `replace`,
                `breakpoints`, `recursion_limit`, `mode`.

        Raises:
            Incompatible: The other graph lacks a node that comes next, or a channel.
        """
        flow = steering.fork(
            id,
            wait,
            timeout,
            options,
            checkpoint_id=checkpoint_id,
            state=state,
            variant_config=variant_config,
            run=run,
        )
        return self.flow(flow)

    def rollback_many(
        self, items: Mapping[str, str] | Iterable[Mapping[str, Any]]
    ) -> list[control.Outcome]:
        """Roll many executions back, each by itself: `{execution: checkpoint}`, or requests.

        A request is `{"execution_id", "checkpoint_id" or "node", ...}` as of `rollback`.
        """
        return self.flow(steering.many("rollback", items))

    def fork_many(
        self, items: Mapping[str, str] | Iterable[Mapping[str, Any]]
    ) -> list[control.Outcome]:
        """Fork many executions, each by itself: `{execution: checkpoint}`, or requests.

        A request is `{"execution_id", "checkpoint_id", "count", ...}` as of `fork`.
        """
        return self.flow(steering.many("fork", items))

    def swap(
        self,
        id: str,
        node: str | None = None,
        variant: str | None = None,
        *,
        variant_config: Mapping[str, str] | None = None,
        version: str | None = None,
        cell: int | None = None,
    ) -> Execution:
        """Give an execution other implementations from its next super-step on.

        One that runs is paused for it and goes on. `version` takes another version of its project,
        `cell` one of those that share the execution, as of `update_state`.

        Raises:
            Incompatible: The other graph lacks a node that comes next, or a channel.
        """
        flow = steering.swap(
            id,
            node=node,
            variant=variant,
            variant_config=variant_config,
            version=version,
            cell=cell,
        )
        return self.flow(flow)

    def branches(self, id: str) -> control.BranchTree:
        """All that an execution ever did: branches with their steps, and what was forked off."""
        return self.send(steering_calls.branches(id))

    def nodes(self, id: str) -> list[control.NodeHistory]:
        """What each node has done: status, runs, and the checkpoints around its newest run."""
        return self.send(steering_calls.nodes(id))

    def diff_state(
        self,
        id: str,
        from_checkpoint: str | None = None,
        to_checkpoint: str | None = None,
        other: str | None = None,
    ) -> dict[str, api.StateChange]:
        """How the state changed, by channel; by default in the newest step.

        Args:
            other: Another execution, whose checkpoint `to_checkpoint` is.
        """
        return self.flow(steering.state_diff(id, from_checkpoint, to_checkpoint, other))

    def pause_batch(self, id: str) -> model.Batch:
        """Start nothing more of a batch; what runs is given back after its present step."""
        return self.send(steering_calls.pause_batch(id))

    def resume_batch(self, id: str) -> model.Batch:
        """Go on with a paused batch."""
        return self.send(steering_calls.resume_batch(id))

    def rerun_batch(
        self,
        id: str,
        status: Sequence[str] = ("FAILED", "CANCELLED"),
        variant: str | None = None,
        case: str | None = None,
    ) -> model.Batch:
        """Run cells of a batch again that have failed or did not run; see `Batch.rerun`."""
        wanted = {"status": list(status), "variant": variant, "case": case}
        return self.send(calls.rerun_batch(id, flows.made(control.RerunRequest, **wanted)))

    def set_budget(self, id: str, **amounts: float | None) -> model.Batch:
        """Change budgets of a batch; see `Batch.set_budget`."""
        return self.send(calls.set_budget(id, flows.made(control.BatchChange, budget=amounts)))

    def extend_batch(
        self,
        id: str,
        test_cases: AnyCases = (),
        variant_matrix: Iterable[dict[str, str]] = (),
        repetitions: int | None = None,
    ) -> model.Batch:
        """Add cases, variants and repetitions to a batch; see `Batch.extend`."""
        request = flows.extend_request(test_cases, variant_matrix, repetitions)
        return self.send(calls.extend_batch(id, request))

    def update_node(
        self,
        project: WorkflowProject,
        node: str,
        variant: str,
        implementation: Callable[..., Any] | str | None = None,
        params: Mapping[str, Any] | None = None,
        swap_paused: bool = False,
    ) -> control.Renewed:
        """Give a variant of a node another implementation or params: a new version of the project.

        Args:
            variant: One that is there is replaced.
            swap_paused: Have the project's paused executions take it.
        """
        project.update_variant(node, variant, implementation, params)
        return self._renewed(project, swap_paused, {node: variant})

    def update_workflow(
        self,
        project: WorkflowProject,
        graph_factory: Callable[..., Any] | str | None = None,
        swap_paused: bool = False,
    ) -> control.Renewed:
        """Register a project anew, with its present code or another graph.

        Args:
            swap_paused: Have the project's paused executions go over to it, where they fit.
        """
        if graph_factory is not None:
            project.update_graph(graph_factory)
        return self._renewed(project, swap_paused, {})

    def activate_project(self, name: str, active: bool = True) -> model.ProjectVersion:
        """Let new executions and batches of a project start, or not; what runs goes on."""
        change = control.ProjectChange(active=active)
        return self.send(steering_calls.change_project(name, change))

    def deactivate_project(self, name: str) -> model.ProjectVersion:
        """Let nothing new of a project start; what runs goes on, open batches to their end."""
        return self.activate_project(name, active=False)

    def remove_project(self, name: str) -> model.ProjectVersion:
        """Take a project away; what it ran can be read as before, and its name is free.

        Raises:
            ProjectInUse: Executions or batches of it have not ended; `details` names them.
        """
        return self.send(steering_calls.remove_project(name))

    def add_variant(
        self,
        project: str,
        node: str,
        name: str,
        implementation: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> model.ProjectVersion:
        """Add a variant, by its import path in the code that the bench has, or by its params."""
        variant = flows.made(
            control.NewVariant, name=name, implementation=implementation, params=dict(params or {})
        )
        return self.send(steering_calls.add_variant(project, node, variant))

    def activate_variant(
        self, project: str, node: str, name: str, active: bool = True
    ) -> model.ProjectVersion:
        """Let a variant be taken, or not; what has it goes on."""
        change = control.VariantChange(active=active)
        return self.send(steering_calls.change_variant(project, node, name, change))

    def deactivate_variant(self, project: str, node: str, name: str) -> model.ProjectVersion:
        """Let nothing new take a variant; what has it goes on."""
        return self.activate_variant(project, node, name, active=False)

    def remove_variant(self, project: str, node: str, name: str) -> model.ProjectVersion:
        """Take a variant out of the project's newest version; older versions keep it."""
        return self.send(steering_calls.remove_variant(project, node, name))

    def _renewed(
        self, project: WorkflowProject, swap_paused: bool, binding: Mapping[str, str]
    ) -> control.Renewed:
        bundle = project.code.pack()
        renewed = self.flow(steering.renewed(project, bundle, swap_paused, binding))
        self.codes[project.name] = project.code
        return renewed
