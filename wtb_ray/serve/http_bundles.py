"""`/bundles`: code archives, each under its SHA-256."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from wtb_ray import bundles, errors
from wtb_ray.api import StoredBundle
from wtb_ray.serve.http_requests import Here

router = APIRouter(prefix="/bundles", tags=["bundles"])

UPLOADED_S = 3600.0
"""How long a bundle waits for its project."""
Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]


@router.put(
    "/{sha256}",
    status_code=201,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def put_bundle(sha256: Digest, request: Request, here: Here) -> StoredBundle:
    """Stores a zip archive of code, for an hour if no project is registered with it by then."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
    archive = bytes(data)
    del data
    await asyncio.to_thread(bundles.check, archive, sha256)
    async with here.holds.writing():
        await here.objects.put(archive)
        await here.holds.leave([sha256], UPLOADED_S)
    return StoredBundle(digest=sha256, bytes=len(archive))


@router.head("/{sha256}")
async def has_bundle(sha256: Digest, here: Here) -> Response:
    """200 if the bundle is stored, else 404."""
    if not await here.objects.exists(sha256):
        raise errors.UnknownBundle(f"there is no bundle {sha256}", field="sha256", reason="unknown")
    return Response()
