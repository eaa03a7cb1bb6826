"""Who may talk to the bench: until tokens exist, only this machine.

Refuses clients that are not on loopback, HTTP requests whose Host is no loopback name (a page of
another site whose name was rebound to 127.0.0.1), and browsers that come from another origin.
Serve's gRPC server listens on every interface, so for gRPC the check of the peer is the only one.
"""

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit

import psutil

from wtb_ray import errors
from wtb_ray.settings import Settings

_ACTOR = re.compile(r"[\w.@+-]{1,64}", re.ASCII)


def is_loopback(host: str) -> bool:
    """Whether a host name or address, without port, means this machine's loopback."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def require_loopback(settings: Settings) -> None:
    """Refuses to listen where others could connect.

    Raises:
        ConfigurationError: `http_host` is not loopback.
    """
    if not is_loopback(settings.http_host):
        raise errors.ConfigurationError(
            f"WTB_HTTP_HOST={settings.http_host} would let other machines in,"
            " and there are no tokens yet: use 127.0.0.1",
            field="http_host",
            reason="not loopback",
        )


def trusted_peers(environ: Mapping[str, str] = os.environ) -> frozenset[str]:
    """Addresses besides loopback that calls may come from.

    HAProxy listens on loopback and reaches the replicas by the node's own address; without it
    nothing but loopback is needed.
    """
    if environ.get("RAY_SERVE_ENABLE_HA_PROXY") != "1":
        return frozenset()
    return frozenset(
        address.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
    )


class Gate:
    """Lets requests of this machine in and refuses all others."""

    def __init__(self, trusted: frozenset[str] = frozenset()) -> None:
        self._trusted = trusted

    def address(self, client: str | None) -> None:
        """Refuses a client by its address.

        Raises:
            Refused: The address is unknown or of another machine.
        """
        if client is None or not (is_loopback(client) or client in self._trusted):
            raise errors.Refused(
                "only clients on this machine are served",
                field="client",
                reason="not loopback",
            )

    def http(self, client: str | None, header: Callable[[str], str | None]) -> None:
        """Refuses an HTTP or WebSocket request by its client, Host and Origin.

        Raises:
            Refused: One of them is not loopback.
        """
        self.address(client)
        host = header("host") or ""
        if not is_loopback(_host(f"//{host}")):
            raise errors.Refused(
                f"Host {host!r} is not a name of loopback", field="host", reason="not loopback"
            )
        origin = header("origin")
        if origin is not None and not is_loopback(_host(origin)):
            raise errors.Refused(
                f"requests from {origin!r} are not served", field="origin", reason="not loopback"
            )

    def peer(self, peer: str) -> None:
        """Refuses a gRPC peer by its `ipv4:address:port` or `ipv6:[address]:port`.

        Raises:
            Refused: The peer is of another machine.
        """
        kind, _, rest = unquote(peer).partition(":")
        address = rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else None
        self.address(address)


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def actor(protocol: str, claimed: str | None) -> str:
    """Who did it, for the event log: the protocol, and what the caller calls itself.

    Raises:
        InvalidRequest: The name has characters that do not belong in one.
    """
    if not claimed:
        return protocol
    if not _ACTOR.fullmatch(claimed):
        raise errors.InvalidRequest(
            "X-Actor is a name of up to 64 letters, digits and . _ @ + -",
            field="X-Actor",
            reason="not a name",
        )
    return f"{protocol}:{claimed}"
