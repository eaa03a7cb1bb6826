"""Which exceptions are not the user's failure: what a node calls was overloaded, or took too long.

They are known by what they say (a status, the name of their class), so that no client library has to
be installed here. What an exception was raised from counts as well; what was handled when it was
raised does not.
"""

import email.utils
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from wtb_ray import errors

RATE_LIMITED: Final = errors.RateLimited.code
TIMED_OUT: Final = errors.TimedOut.code
CODES: Final = frozenset({RATE_LIMITED, TIMED_OUT})

STATUSES: Final = frozenset({429, 503, 529})
OVERLOADED: Final = frozenset(
    {
        *("RateLimitError", "OverloadedError", "ServiceUnavailableError", "InternalRateLimitError"),
        *("TooManyRequests", "ResourceExhausted", "ServiceUnavailable", "RateLimitExceeded"),
        *("ThrottlingException", "TooManyRequestsException", "ServiceQuotaExceededException"),
        *("ProvisionedThroughputExceededException", "RequestLimitExceeded"),
    }
)
"""Classes of openai, anthropic, google, and of botocore's modelled errors."""
SLOW: Final = frozenset(
    {
        *("APITimeoutError", "DeadlineExceeded", "ConnectTimeoutError", "ReadTimeoutError"),
        *("ModelTimeoutException", "NodeTimeoutError"),
    }
)
MODULES: Final = ("httpx", "httpcore", "requests", "aiohttp", "urllib3", "botocore")
"""Of their exceptions, those whose names say so have timed out."""
THROTTLED: Final = frozenset(
    {
        *("Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled"),
        *("RequestThrottledException", "TooManyRequestsException", "RequestLimitExceeded"),
        *("ProvisionedThroughputExceededException", "SlowDown", "BandwidthLimitExceeded"),
        *("LimitExceededException", "TransactionInProgressException", "PriorRequestNotComplete"),
    }
)
"""Codes of botocore's ClientError."""
DEEPEST: Final = 20
LONGEST_S: Final = 3600.0
"""What is asked for by Retry-After counts up to this."""


@dataclass(frozen=True)
class Overload:
    """What an exception says about what the node called."""

    code: str
    """`rate_limited` or `timed_out`."""
    retry_after_s: float | None = None


def overload_of(error: BaseException) -> Overload | None:
    """What of this kind is in an exception or what it was raised from; None: nothing is.

    A group is of this kind when all that is in it is.
    """
    for one in _chain(error):
        if isinstance(one, BaseExceptionGroup):
            found = [overload_of(part) for part in one.exceptions]
            overloads = [overload for overload in found if overload is not None]
            if len(overloads) == len(found):
                return max(overloads, key=lambda o: (o.code == RATE_LIMITED, o.retry_after_s or 0))
            continue
        if (told := _own(one)) is not None:
            return told
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    for _ in range(DEEPEST):
        if found is None:
            return
        yield found
        found = found.__cause__


def _own(error: BaseException) -> Overload | None:
    """What the exception says itself. Its attributes are the user's code, and may do anything."""
    try:
        told = getattr(error, "overload", None)
        if isinstance(told, Overload):  # of a node in a process of its own
            return told
        names = {cls.__name__ for cls in type(error).__mro__}
        if names & OVERLOADED or _status(error) in STATUSES or _throttled(error):
            return Overload(RATE_LIMITED, _retry_after(error))
        if isinstance(error, TimeoutError) or names & SLOW or _slow(error):
            return Overload(TIMED_OUT)
    except Exception:  # noqa: BLE001 - then it says nothing
        return None
    return None


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    for told in (error, response):
        for name in ("status_code", "status"):
            found = getattr(told, name, None)
            if isinstance(found, int):
                return found
    return None


def _throttled(error: BaseException) -> bool:
    """botocore: `response` is a dict there."""
    response = getattr(error, "response", None)
    told = response.get("Error") if isinstance(response, Mapping) else None
    return isinstance(told, Mapping) and told.get("Code") in THROTTLED


def _slow(error: BaseException) -> bool:
    return any(
        "Timeout" in cls.__name__ and cls.__module__.partition(".")[0] in MODULES
        for cls in type(error).__mro__
    )


def _retry_after(error: BaseException) -> float | None:
    headers = _headers(error)
    if headers is None:
        return None
    named = {str(name).lower(): value for name, value in headers.items()}
    milliseconds = _seconds(named.get("retry-after-ms"))
    if milliseconds is not None:
        return min(milliseconds / 1000, LONGEST_S)
    seconds = _seconds(named.get("retry-after"))
    return None if seconds is None else min(seconds, LONGEST_S)


def _headers(error: BaseException) -> Mapping[Any, Any] | None:
    response = getattr(error, "response", None)
    found: Any = getattr(response, "headers", None)
    if isinstance(response, Mapping):
        found = response.get("ResponseMetadata", {}).get("HTTPHeaders")
    found = getattr(error, "headers", None) if found is None else found
    return found if hasattr(found, "items") else None


def _seconds(text: Any) -> float | None:
    """Seconds, or a date as HTTP writes it."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = _until(str(text))
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _until(date: str) -> float:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() - time.time()
    except ValueError:
        return math.nan
