"""`/executions/{id}/files`, `/trash`: the files of checkpoints, and bringing lost ones back.

Paths are looked up in manifests and never on a disk of ours. A download is verified as a whole before
its first byte is sent, and no browser takes it for a page of ours.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, BinaryIO, Final
from urllib.parse import quote

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from wtb_ray import errors, files
from wtb_ray.api import FileList, Page, RestoredTrash, TrashRestoreRequest
from wtb_ray.file_entries import FileEntry, TrashedFile
from wtb_ray.serve.context import Context
from wtb_ray.serve.http_requests import Actor, After, CommandRoute, Here, Limit

commands = APIRouter(prefix="/executions", tags=["files"], route_class=CommandRoute)
reads = APIRouter(prefix="/executions", tags=["files"])

INLINE: Final = 1 << 20
"""Files up to this size are sent from memory."""
CHUNK: Final = 256 << 10

Checkpoint = Annotated[str | None, Query(description="Absent: the newest files.")]


@reads.get("/{execution_id}/files")
async def list_files(
    execution_id: str,
    here: Here,
    checkpoint: Checkpoint = None,
    prefix: Annotated[
        str, Query(description="Only this file, or what is below this directory.")
    ] = "",
    limit: Limit = 100,
    after: After = None,
) -> FileList:
    """The files of a checkpoint in the order of their paths, directories before their files."""
    kept = await here.store.files.kept_at(execution_id, checkpoint)
    manifest = kept.manifest if kept is not None else None
    page = await files.listing(here.objects, manifest, prefix, limit, after)
    return FileList(
        items=page.items,
        next=page.next,
        execution_id=execution_id,
        checkpoint_id=kept.checkpoint_id if kept is not None else None,
    )


@reads.get(
    "/{execution_id}/files/{path:path}",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The file's bytes."},
        304: {"description": "It is what the client has."},
    },
)
async def read_file(
    execution_id: str,
    path: str,
    here: Here,
    checkpoint: Checkpoint = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The content of one file."""
    manifest = await here.store.files.manifest_at(execution_id, checkpoint)
    entry = await files.file_at(here.objects, manifest, path)
    assert entry.digest is not None
    headers = _headers(entry)
    if if_none_match is not None and _matches(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if entry.size <= INLINE:
        content = await here.objects.get(entry.digest)
        return Response(content, headers=headers, media_type="application/octet-stream")
    async with here.holds.reading([manifest] if manifest else []):
        if await here.store.files.manifest_at(execution_id, checkpoint) != manifest:
            raise errors.Conflict(
                f"the files of execution {execution_id} have changed meanwhile: try again",
                field="path",
                reason="changed meanwhile",
            )
        verified = await _verified(here, entry.digest)
    headers["Content-Length"] = str(entry.size)
    return StreamingResponse(
        _chunks(verified), headers=headers, media_type="application/octet-stream"
    )


def _headers(entry: FileEntry) -> dict[str, str]:
    name = entry.path.rpartition("/")[2]
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in name)
    return {
        "ETag": f'"{entry.digest}"',
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cache-Control": "private, no-cache",
    }


def _matches(given: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in given.split(",")]
    return etag in tags or "*" in tags


async def _verified(here: Context, digest: str) -> BinaryIO:
    """An open file with the content of an object, which nobody else can see or leave behind."""
    directory = here.settings.data_dir / "tmp"

    def make() -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="download-", dir=directory))

    place = await asyncio.to_thread(make)
    try:
        await here.objects.get_file(digest, place / "content")
        return (place / "content").open("rb")
    finally:
        await asyncio.to_thread(shutil.rmtree, place)


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk


@reads.get("/{execution_id}/trash")
async def list_trash(
    execution_id: str, here: Here, limit: Limit = 100, after: After = None
) -> Page[TrashedFile]:
    """The files that restores removed or changed, as they were before; newest restore first."""
    restores = await here.store.files.restores(execution_id)
    return await files.trash(here.objects, restores, limit, after)


@commands.post("/{execution_id}/trash/restore")
async def restore_trash(
    execution_id: str, request: TrashRestoreRequest, here: Here, actor: Actor
) -> RestoredTrash:
    """Brings files back that a restore displaced, while the execution rests."""
    restored: RestoredTrash = await here.command("restore_trash", execution_id, request, actor)
    return restored
