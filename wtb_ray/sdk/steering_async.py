"""Control and time travel for async programs: a part of `AsyncTestBench`."""

import abc
import asyncio
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


class AsyncSteering(abc.ABC):
    """What moves executions."""

    codes: flows.Codes

    @abc.abstractmethod
    async def send(self, call: Call[Answer]) -> Answer:
        """The answer to one call."""

    @abc.abstractmethod
    async def flow(self, flow: Flow[Answer]) -> Answer:
        """The result of several calls and of the pauses between them."""

    async def pause(
        self,
        id: str,
        reason: str | None = None,
        wait: bool = True,
        timeout: float | None = None,
        strategy: str | None = None,
        expected_s: float | None = None,
    ) -> Execution:
        """Pause an execution: at once when it waits, after its present step when it runs; see `WTBTestBench.pause`."""
        flow = steering.pause(
            id, wait, timeout, reason=reason, strategy=strategy, expected_s=expected_s
        )
        return await self.flow(flow)

    async def resume(
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
        """Send a paused execution on, past its breakpoint; see `WTBTestBench.resume`."""
        flow = steering.resume(
            id,
            wait,
            timeout,
            state=state,
            answers=answers,
            recursion_limit=recursion_limit,
            **options,
        )
        return await self.flow(flow)

    async def step(self, id: str, wait: bool = True, timeout: float | None = None) -> Execution:
        """Let a paused execution run one super-step."""
        return await self.flow(steering.moved(steering_calls.step(id), wait, timeout))

    async def retry(
        self,
        id: str,
        recursion_limit: int | None = None,
        wait: bool = True,
        timeout: float | None = None,
    ) -> Execution:
        """Let a failed execution go on from where it stands: finished nodes do not run again."""
        return await self.flow(steering.retry(id, recursion_limit, wait, timeout))

    async def interrupts(self, id: str) -> list[control.Question]:
        """What an execution asks, with the schema of an answer where the node gave one."""
        return await self.send(steering_calls.interrupts(id))

    async def answer(
        self,
        id: str,
        answers: Mapping[str, Any],
        *,
        resume: bool = True,
        cell: int | None = None,
        wait: bool = True,
        timeout: float | None = None,
    ) -> Execution:
        """Answer what an execution asks, by interrupt id, and send it on; see `WTBTestBench.answer`."""
        return await self.flow(steering.answer(id, answers, resume, cell, wait, timeout))

    async def breakpoints(self, id: str) -> list[str]:
        """Where an execution pauses: `before:node` and `after:node`."""
        return (await self.send(steering_calls.breakpoints(id))).breakpoints

    async def set_breakpoints(self, id: str, breakpoints: Iterable[str]) -> Execution:
        """Replace an execution's breakpoints, also while it runs; a node alone means before it."""
        return await self.flow(steering.set_breakpoints(id, breakpoints))

    async def update_state(
        self, id: str, values: Mapping[str, Any], **options: Unpack[StateOptions]
    ) -> Execution:
        """Change the state of a paused execution, as LangGraph's `update_state` does; see `WTBTestBench.update_state`."""
        return await self.flow(steering.update_state(id, values, options))

    async def execute_node(
        self, id: str, node: str, state: Mapping[str, Any] | None = None
    ) -> api.NodeOutcome:
        """Run one node on a state, by default the newest one; nothing moves."""
        return await self.flow(steering.execute_node(id, node, state))

    async def reset(self, id: str, cell: int | None = None) -> Execution:
        """Put an execution back to its input, in a clean workspace; see `WTBTestBench.reset`."""
        return await self.flow(steering.reset(id, cell))

    async def rollback(
        self,
        id: str,
        checkpoint_id: str,
        *,
        pause: bool = False,
        mode: control.Mode = "clean",
        cell: int | None = None,
    ) -> Execution:
        """Put an execution back, or forward again, to a checkpoint, with its files; it is PAUSED then; see `WTBTestBench.rollback`."""
        flow = steering.rollback(id, checkpoint_id=checkpoint_id, pause=pause, mode=mode, cell=cell)
        return await self.flow(flow)

    async def rollback_to_node(
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
        return await self.flow(flow)

    async def fork(
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
        """Make another execution that goes on from a checkpoint of this one, with its own files; see `WTBTestBench.fork`."""
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
        return await self.flow(flow)

    async def rollback_many(
        self, items: Mapping[str, str] | Iterable[Mapping[str, Any]]
    ) -> list[control.Outcome]:
        """Roll many executions back, each by itself: `{execution: checkpoint}`, or requests; see `WTBTestBench.rollback_many`."""
        return await self.flow(steering.many("rollback", items))

    async def fork_many(
        self, items: Mapping[str, str] | Iterable[Mapping[str, Any]]
    ) -> list[control.Outcome]:
        """Fork many executions, each by itself: `{execution: checkpoint}`, or requests; see `WTBTestBench.fork_many`."""
        return await self.flow(steering.many("fork", items))

    async def swap(
        self,
        id: str,
        node: str | None = None,
        variant: str | None = None,
        *,
        variant_config: Mapping[str, str] | None = None,
        version: str | None = None,
        cell: int | None = None,
    ) -> Execution:
        """Give an execution other implementations from its next super-step on; see `WTBTestBench.swap`."""
        flow = steering.swap(
            id,
            node=node,
            variant=variant,
            variant_config=variant_config,
            version=version,
            cell=cell,
        )
        return await self.flow(flow)

    async def branches(self, id: str) -> control.BranchTree:
        """All that an execution ever did: branches with their steps, and what was forked off."""
        return await self.send(steering_calls.branches(id))

    async def nodes(self, id: str) -> list[control.NodeHistory]:
        """What each node has done: status, runs, and the checkpoints around its newest run."""
        return await self.send(steering_calls.nodes(id))

    async def diff_state(
        self,
        id: str,
        from_checkpoint: str | None = None,
        to_checkpoint: str | None = None,
        other: str | None = None,
    ) -> dict[str, api.StateChange]:
        """How the state changed, by channel; by default in the newest step; see `WTBTestBench.diff_state`."""
        return await self.flow(steering.state_diff(id, from_checkpoint, to_checkpoint, other))

    async def pause_batch(self, id: str) -> model.Batch:
        """Start nothing more of a batch; what runs is given back after its present step."""
        return await self.send(steering_calls.pause_batch(id))

    async def resume_batch(self, id: str) -> model.Batch:
        """Go on with a paused batch."""
        return await self.send(steering_calls.resume_batch(id))

    async def rerun_batch(
        self,
        id: str,
        status: Sequence[str] = ("FAILED", "CANCELLED"),
        variant: str | None = None,
        case: str | None = None,
    ) -> model.Batch:
        """Run cells of a batch again that have failed or did not run; see `Batch.rerun`."""
        wanted = {"status": list(status), "variant": variant, "case": case}
        return await self.send(calls.rerun_batch(id, flows.made(control.RerunRequest, **wanted)))

    async def set_budget(self, id: str, **amounts: float | None) -> model.Batch:
        """Change budgets of a batch; see `Batch.set_budget`."""
        return await self.send(
            calls.set_budget(id, flows.made(control.BatchChange, budget=amounts))
        )

    async def extend_batch(
        self,
        id: str,
        test_cases: AnyCases = (),
        variant_matrix: Iterable[dict[str, str]] = (),
        repetitions: int | None = None,
    ) -> model.Batch:
        """Add cases, variants and repetitions to a batch; see `Batch.extend`."""
        request = flows.extend_request(test_cases, variant_matrix, repetitions)
        return await self.send(calls.extend_batch(id, request))

    async def update_node(
        self,
        project: WorkflowProject,
        node: str,
        variant: str,
        implementation: Callable[..., Any] | str | None = None,
        params: Mapping[str, Any] | None = None,
        swap_paused: bool = False,
    ) -> control.Renewed:
        """Give a variant of a node another implementation or params: a new version of the project; see `WTBTestBench.update_node`."""
        project.update_variant(node, variant, implementation, params)
        return await self._renewed(project, swap_paused, {node: variant})

    async def update_workflow(
        self,
        project: WorkflowProject,
        graph_factory: Callable[..., Any] | str | None = None,
        swap_paused: bool = False,
    ) -> control.Renewed:
        """Register a project anew, with its present code or another graph; see `WTBTestBench.update_workflow`."""
        if graph_factory is not None:
            project.update_graph(graph_factory)
        return await self._renewed(project, swap_paused, {})

    async def activate_project(self, name: str, active: bool = True) -> model.ProjectVersion:
        """Let new executions and batches of a project start, or not; what runs goes on."""
        change = control.ProjectChange(active=active)
        return await self.send(steering_calls.change_project(name, change))

    async def deactivate_project(self, name: str) -> model.ProjectVersion:
        """Let nothing new of a project start; what runs goes on, open batches to their end."""
        return await self.activate_project(name, active=False)

    async def remove_project(self, name: str) -> model.ProjectVersion:
        """Take a project away; what it ran can be read as before, and its name is free.

        Raises:
            ProjectInUse: Executions or batches of it have not ended; `details` names them.
        """
        return await self.send(steering_calls.remove_project(name))

    async def add_variant(
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
        return await self.send(steering_calls.add_variant(project, node, variant))

    async def activate_variant(
        self, project: str, node: str, name: str, active: bool = True
    ) -> model.ProjectVersion:
        """Let a variant be taken, or not; what has it goes on."""
        change = control.VariantChange(active=active)
        return await self.send(steering_calls.change_variant(project, node, name, change))

    async def deactivate_variant(self, project: str, node: str, name: str) -> model.ProjectVersion:
        """Let nothing new take a variant; what has it goes on."""
        return await self.activate_variant(project, node, name, active=False)

    async def remove_variant(self, project: str, node: str, name: str) -> model.ProjectVersion:
        """Take a variant out of the project's newest version; older versions keep it."""
        return await self.send(steering_calls.remove_variant(project, node, name))

    async def _renewed(
        self, project: WorkflowProject, swap_paused: bool, binding: Mapping[str, str]
    ) -> control.Renewed:
        bundle = await asyncio.to_thread(project.code.pack)
        renewed = await self.flow(steering.renewed(project, bundle, swap_paused, binding))
        self.codes[project.name] = project.code
        return renewed
