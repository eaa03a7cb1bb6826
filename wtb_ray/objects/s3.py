"""Objects in a bucket of S3 or of a server that speaks its protocol.

Endpoint, region and credentials come from where AWS tools look for them; the permissions needed are
ListBucket (else the server does not tell a missing object from a forbidden one), GetObject,
PutObject, AbortMultipartUpload and, to collect garbage, DeleteObject. Large files are read twice and sent in parts, compressed on the
way: no copy is made, and nothing appears unless it is whole.
The server checks each request by the checksum that the driver sends along.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import aiobotocore.session
import botocore.exceptions
import botocore.loaders
import s3fs.core

from wtb_ray import errors
from wtb_ray.objects.blobs import Source, Stored, digest_of_key, key_of
from wtb_ray.objects.remote import NO_PLACE, PART, Remote

T = TypeVar("T")

_UPLOAD_PART = 8 << 20
_UPLOADS_AT_ONCE, _PARTS_AT_ONCE = 2, 4
_MOST_PARTS = 9_000
_READINGS = 3
"""How often a file that changes while it is sent is started again."""
_ABORT_S = 10.0

_CREDENTIALS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "InvalidClientTokenId",
    "RequestTimeTooSkewed",
}
_FULL = {
    "InsufficientStorage",
    "QuotaExceeded",
    "XMinioStorageFull",
    "XMinioAdminBucketQuotaExceeded",
}
_AGAIN = {"RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "SlowDown"}

_log = logging.getLogger(__name__)


@cache
def _models(data_path: str | None) -> botocore.loaders.Loader:
    """What the driver knows of S3: megabytes of JSON, which every session would read for itself."""
    return botocore.loaders.create_loader(data_path)


class _UploadGone(Exception):
    """The server does not know the upload any more, or never did."""


class S3(Remote):
    """A bucket, or a part of one."""

    def __init__(self, url: str, options: dict[str, Any], deadline_s: float):
        super().__init__(url, deadline_s)
        settings = dict(options)
        config = {
            # Attempts are counted here, not by two layers of the driver on top of each other.
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "max_pool_connections": 32,
            "response_checksum_validation": "when_required",  # the digest is verified anyway
        }
        settings["config_kwargs"] = {**config, **settings.get("config_kwargs", {})}
        if region := os.environ.get("AWS_REGION"):  # botocore knows AWS_DEFAULT_REGION only
            settings["client_kwargs"] = {"region_name": region, **settings.get("client_kwargs", {})}
        self._fs = s3fs.core.S3FileSystem(
            asynchronous=True, skip_instance_cache=True, use_listings_cache=False, **settings
        )
        self._fs.retries = 1
        session = aiobotocore.session.AioSession(**self._fs.kwargs)
        session.register_component("data_loader", _models(session.get_config_variable("data_path")))
        self._fs.session = session
        self._bucket, prefix, _ = self._fs.split_path(url)
        self._prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        self._bucket_seen = False
        self._uploads = asyncio.Semaphore(_UPLOADS_AT_ONCE)

    async def aclose(self) -> None:
        if self._fs._s3 is not None:
            await self._fs._s3.close()

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        try:
            await self._fs.set_session()  # reads much; no part of an attempt
        except Exception as e:
            raise self._explained(e) from e
        return await super()._call(call)

    async def _request(self, method: str, key: str, **parameters: Any) -> Any:
        return await self._fs._call_s3(
            method, Bucket=self._bucket, Key=f"{self._prefix}{key}", **parameters
        )

    async def _size(self, key: str) -> int | None:
        try:
            found = await self._request("head_object", key)
        except FileNotFoundError:
            # The answer to HEAD has no body that would tell a missing bucket from a missing key.
            await self._look_at_bucket()
            return None
        return int(found["ContentLength"])

    async def _look_at_bucket(self) -> None:
        if self._bucket_seen:
            return
        try:
            await self._fs._call_s3("head_bucket", Bucket=self._bucket)
        except FileNotFoundError as e:
            raise self._misplaced(e, NO_PLACE) from e
        except PermissionError:
            pass  # who may read objects need not be allowed to look at buckets
        self._bucket_seen = True

    async def _put(self, key: str, data: bytes) -> None:
        await self._request("put_object", key, Body=data)

    async def _send(self, key: str, data: bytes) -> None:
        if len(data) < 2 * _UPLOAD_PART:
            await super()._send(key, data)
            return
        parts = (data[i : i + _UPLOAD_PART] for i in range(0, len(data), _UPLOAD_PART))
        await self._multipart(key, next(parts), parts, lambda: True)

    async def _range(self, key: str, start: int) -> tuple[bytes, int]:
        try:
            answer = await self._request(
                "get_object", key, Range=f"bytes={start}-{start + PART - 1}"
            )
        except FileNotFoundError as e:
            if _code(e) == "NoSuchBucket":
                raise self._misplaced(e, NO_PLACE) from e
            raise
        except OSError as e:
            if _code(e) in ("InvalidRange", "416"):
                return b"", start  # nothing begins there: an empty or shortened object
            raise
        async with answer["Body"] as body:
            data = await body.read()
        announced = answer.get("ContentLength", len(data))
        if len(data) != announced:
            raise ConnectionError(f"{len(data)} of {announced} bytes came")
        _, _, total = answer.get("ContentRange", "").rpartition("/")
        return bytes(data), int(total) if total.isdigit() else start + len(data)

    async def listed(self, prefix: str) -> AsyncIterator[list[Stored]]:
        begin = f"{prefix[:2]}/{prefix[2:]}" if len(prefix) > 1 else prefix
        where = {"Bucket": self._bucket, "Prefix": f"{self._prefix}blobs/{begin}"}
        token: dict[str, str] = {}
        while True:
            try:
                answer = await self._call(
                    lambda: self._fs._call_s3("list_objects_v2", **where, **token)  # noqa: B023
                )
            except FileNotFoundError as e:
                raise self._misplaced(e, NO_PLACE) from e
            page = []
            for item in answer.get("Contents", ()):
                digest = digest_of_key(*item["Key"].split("/")[-2:])
                if digest is not None:
                    page.append(Stored(digest, item["Size"], item["LastModified"].timestamp()))
            if page:
                yield page
            if not answer.get("IsTruncated"):
                return
            token = {"ContinuationToken": answer["NextContinuationToken"]}

    async def _delete(self, keys: Sequence[str]) -> None:
        wanted = {"Objects": [{"Key": f"{self._prefix}{key}"} for key in keys], "Quiet": True}
        answer = await self._fs._call_s3("delete_objects", Bucket=self._bucket, Delete=wanted)
        refused = [e for e in answer.get("Errors", ()) if e.get("Code") != "NoSuchKey"]
        if refused:
            first = refused[0]
            what = f"{len(refused)} of {len(keys)} objects: {first.get('Message')}"
            if first.get("Code") in ("AccessDenied", "AllAccessDisabled"):
                raise self._misplaced(what, "no permission")
            raise ConnectionError(f"not deleted: {what}")

    async def _staged(self) -> list[tuple[str, float]]:
        where = {"Bucket": self._bucket, "Prefix": f"{self._prefix}tmp/"}
        answer = await self._fs._call_s3("list_objects_v2", **where)
        return [
            (item["Key"].removeprefix(self._prefix), item["LastModified"].timestamp())
            for item in answer.get("Contents", ())
        ]

    async def _modified(self, key: str) -> float:
        found: float = (await self._request("head_object", key))["LastModified"].timestamp()
        return found

    async def upload(self, path: Path) -> tuple[str, int]:
        for reading in range(1, _READINGS + 1):
            digest, size = await asyncio.to_thread(_survey, path)
            try:
                stored = await self._stored(digest) is not None
                async with self._uploads:
                    stored = stored or await self._upload(path, digest, size)
                if stored:
                    self._settled(digest)
                    return digest, size
            except _UploadGone as e:
                if reading == _READINGS:
                    raise self._away(e) from e
        raise errors.FilesRefused(
            f"{path} changes while it is stored", path=str(path), reason="changes while read"
        )

    async def _upload(self, path: Path, digest: str, size: int) -> bool:
        """Whether the file still had this digest; else nothing was stored."""
        with path.open("rb", buffering=0) as file:
            source = await asyncio.to_thread(Source, file)
            parts = _parts(source.pieces(), max(_UPLOAD_PART, -(-size // _MOST_PARTS)))
            first = await asyncio.to_thread(next, parts, b"")
            second = await asyncio.to_thread(next, parts, None)
            if second is None:
                same = source.digest == digest
                if same:
                    await Remote._send(self, key_of(digest), first)
                return same
            rest = _chained(second, parts)
            return await self._multipart(
                key_of(digest), first, rest, lambda: source.digest == digest
            )

    async def _multipart(
        self, key: str, first: bytes, rest: Iterator[bytes], right: Callable[[], bool]
    ) -> bool:
        """Sends parts and makes an object of them if, at the end, they are the right ones."""
        begun = await self._call(lambda: self._create(key))
        upload = {"UploadId": begun["UploadId"]}
        try:
            tags = await self._send_parts(key, upload, first, rest)
            if right():
                await self._complete(key, upload, tags)
                return True
        except BaseException:
            await self._abort(key, upload)
            raise
        await self._abort(key, upload)
        return False

    async def _create(self, key: str) -> Any:
        try:
            return await self._request("create_multipart_upload", key)
        except FileNotFoundError as e:
            raise self._misplaced(e, NO_PLACE) from e

    async def _send_parts(
        self, key: str, upload: dict[str, str], first: bytes, rest: Iterator[bytes]
    ) -> list[str]:
        tags: dict[int, str] = {}
        room = asyncio.Semaphore(_PARTS_AT_ONCE)

        async def send(number: int, part: bytes) -> None:
            try:
                sent = await self._call(
                    lambda: self._request(
                        "upload_part", key, PartNumber=number, Body=part, **upload
                    )
                )
                tags[number] = sent["ETag"]
            except FileNotFoundError as e:
                raise _UploadGone(str(e)) from e
            finally:
                room.release()

        try:
            async with asyncio.TaskGroup() as group:
                part: bytes | None = first
                number = 0
                while part is not None:
                    await room.acquire()
                    number += 1
                    group.create_task(send(number, part))
                    part = await asyncio.to_thread(next, rest, None)
        except BaseExceptionGroup as e:
            raise e.exceptions[0] from None
        return [tags[n] for n in sorted(tags)]

    async def _complete(self, key: str, upload: dict[str, str], tags: list[str]) -> None:
        parts = [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(tags, start=1)]

        async def complete() -> None:
            try:
                await self._request(
                    "complete_multipart_upload", key, MultipartUpload={"Parts": parts}, **upload
                )
            except FileNotFoundError as e:
                # An answer was lost: the upload is gone because it became the object.
                if await self._size(key) is None:
                    raise _UploadGone(str(e)) from e

        await self._call(complete)

    async def _abort(self, key: str, upload: dict[str, str]) -> None:
        try:
            async with asyncio.timeout(_ABORT_S):
                await self._request("abort_multipart_upload", key, **upload)
        except Exception as e:  # noqa: BLE001 - the parts are invisible; the bucket's rules expire them
            _log.warning("parts of %s stay in %s: %s", key, self._url, e)

    def _passing(self, error: Exception) -> bool:
        if isinstance(error, errors.WTBError | _UploadGone) or self._full(error):
            return False
        status = _status(error)
        if status is None:
            return isinstance(error, _PASSING)
        return status >= 500 or status in (408, 429) or _code(error) in _AGAIN

    def _full(self, error: Exception) -> bool:
        return _status(error) == 507 or _code(error) in _FULL

    def _explained(self, error: Exception) -> errors.WTBError:
        code, status = _code(error), _status(error)
        if self._full(error):
            return errors.StorageFull(
                f"no room left in {self._url}: {error}", path=self._url, reason=code
            )
        if self._passing(error):
            return self._away(error)
        if code in _CREDENTIALS or isinstance(error, _NO_CREDENTIALS):
            return self._misplaced(error, "wrong credentials")
        if status in (401, 403):
            return self._misplaced(error, "no permission")
        return self._misplaced(error, code or type(error).__name__)


_PASSING = (
    *s3fs.core.S3_RETRYABLE_ERRORS,
    botocore.exceptions.ConnectionError,
    OSError,
)
_NO_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.ProfileNotFound,
)


def _answer(error: Exception) -> dict[str, Any]:
    """What the server said: s3fs keeps it as the cause of the error it raises."""
    for e in (error, error.__cause__):
        if isinstance(e, botocore.exceptions.ClientError):
            return dict(e.response)
    return {}


def _code(error: Exception) -> str | None:
    code: str | None = _answer(error).get("Error", {}).get("Code")
    return code


def _status(error: Exception) -> int | None:
    status: int | None = _answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


def _survey(path: Path) -> tuple[str, int]:
    with path.open("rb", buffering=0) as file:
        source = Source(file)
        while source.read():
            pass
    return source.digest, source.size


def _parts(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in parts of exactly `size`, but for the last."""
    part = bytearray()
    for piece in pieces:
        part += piece
        while len(part) >= size:
            yield bytes(part[:size])
            del part[:size]
    if part:
        yield bytes(part)


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest
