"""`/executions/{id}/diff`: how state and files differ between two checkpoints."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query

from wtb_ray import errors, files, histories
from wtb_ray.api import FilesDiff, StateChange
from wtb_ray.serve.context import Context
from wtb_ray.serve.http_requests import After, Here, Limit
from wtb_ray.views import read_state

reads = APIRouter(prefix="/executions", tags=["files"])


@dataclass
class _Side:
    """One of the two that are compared."""

    execution: str
    checkpoint: str | None
    manifest: str | None = None


@reads.get("/{execution_id}/diff")
async def diff_checkpoints(
    execution_id: str,
    here: Here,
    from_: Annotated[
        str | None,
        Query(
            alias="from",
            description="A checkpoint. Absent: the last files kept before `to`; with `execution`,"
            " the newest.",
        ),
    ] = None,
    to: Annotated[str | None, Query(description="A checkpoint. Absent: the newest.")] = None,
    execution: Annotated[
        str | None, Query(description="Another execution, whose checkpoint `to` is.")
    ] = None,
    text: Annotated[
        bool, Query(description="Also give unified diffs of texts of bearable size.")
    ] = False,
    only_state: Annotated[
        bool, Query(alias="state", description="Leave the files out: any checkpoints will do.")
    ] = False,
    limit: Limit = 100,
    after: After = None,
) -> FilesDiff:
    """How state and files changed between two checkpoints of one execution, or of two."""
    other = execution or execution_id
    tracked = not only_state and await _tracks(here, execution_id, other)
    find = _with_files if tracked else _without_files
    old, new = await find(here, execution_id, other, from_, to)
    page = await files.changes(here.objects, old.manifest, new.manifest, limit, after, text=text)
    return FilesDiff(
        items=page.items,
        next=page.next,
        from_execution=old.execution,
        from_checkpoint=old.checkpoint,
        to_execution=new.execution,
        to_checkpoint=new.checkpoint,
        state=await _state_changes(here, old, new) if after is None else {},
    )


async def _tracks(here: Context, *ids: str) -> bool:
    """Whether all of these executions track files."""
    for id in ids:
        execution = await here.store.executions.get(id)
        version = await here.store.projects.by_version(execution.version)
        if not version.spec.tracking:
            return False
    return True


async def _with_files(
    here: Context, id: str, other: str, from_: str | None, to: str | None
) -> tuple[_Side, _Side]:
    store = here.store.files
    new = await store.kept_at(other, to)
    if from_ is None and other == id:
        old = await store.kept_before(id, to)
    else:
        old = await store.kept_at(id, from_)
    sides = [
        _Side(execution, None)
        if kept is None
        else _Side(execution, kept.checkpoint_id, kept.manifest)
        for execution, kept in ((id, old), (other, new))
    ]
    return sides[0], sides[1]


async def _without_files(
    here: Context, id: str, other: str, from_: str | None, to: str | None
) -> tuple[_Side, _Side]:
    heads = {one: (await here.store.executions.get(one)).head for one in (id, other)}
    if to is not None:
        await here.store.executions.step(other, to)
    new = to or heads[other]
    if from_ is None and other == id:
        chain = [step.checkpoint_id for step in await here.store.executions.steps(id)]
        place = chain.index(new) + 1 if new in chain else len(chain)
        if new is not None and new not in chain:
            raise errors.InvalidRequest(
                f"checkpoint {new} is not on the current branch: say what to compare it with",
                field="from",
                reason="missing",
            )
        from_ = chain[place] if place < len(chain) else None
        return _Side(id, from_), _Side(other, new)
    return _Side(id, from_ or heads[id]), _Side(other, new)


async def _state_changes(here: Context, old: _Side, new: _Side) -> dict[str, StateChange]:
    states = [await _state(here, side) for side in (old, new)]
    return histories.state_changes(*states)


async def _state(here: Context, side: _Side) -> dict[str, object]:
    if side.checkpoint is None:
        return {}
    step = await here.store.executions.step(side.execution, side.checkpoint)
    return await read_state(here.db, step.thread_id, step.checkpoint_id)
