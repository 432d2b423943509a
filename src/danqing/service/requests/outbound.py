"""Requests to other hosts: only to allowed ones, and only to the address that was checked.

A name is resolved once. If all its addresses are public, the connection goes to one of them, whatever the
name resolves to a moment later (DNS rebinding). Redirects are not followed, and content is not decompressed.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from danqing.errors import DanqingError
from danqing.version import __version__

_PORTS = {"http": 80, "https": 443}
_LONGEST = 8192

# IPv6 addresses that are translated to any IPv4 address: NAT64 (RFC 6052, 8215), 6to4, Teredo.
_TRANSLATED = tuple(
    ipaddress.IPv6Network(network)
    for network in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")
)


class AddressError(DanqingError):
    """An address that is forbidden or could not be read."""


@dataclass(frozen=True, slots=True)
class Target:
    """The arguments of an httpx request, beside `follow_redirects=False`.

    url: with the checked address in place of the name; the name is in `headers` and, for TLS, in
    `extensions`.
    """

    url: httpx.URL
    headers: Mapping[str, str]
    extensions: Mapping[str, Any]


async def target(url: str, allowed: Sequence[str], seconds: float = 10.0) -> Target:
    """Resolve and check an address; raises AddressError if it is not allowed.

    allowed: names of hosts, `*.example.org` for all below a domain, with `:port` if it is not the default
        port. Names must have only public addresses; other addresses must be listed as numbers.
    seconds: that resolving may take.
    """
    parsed = _parsed(url)
    host, port = parsed.host.rstrip(".").lower(), parsed.port or _PORTS[parsed.scheme]
    if not any(_matches(entry.lower(), host, port, _PORTS[parsed.scheme]) for entry in allowed):
        raise AddressError(f"The service may not call {_named(parsed)}: its operator can allow the host.")
    address = _literal(host) or await _resolved(host, port, seconds)
    authority = parsed.netloc.decode("ascii")
    extensions = {} if parsed.scheme == "http" else {"sni_hostname": host}
    shown = f"[{address}]" if isinstance(address, ipaddress.IPv6Address) else str(address)
    return Target(parsed.copy_with(host=shown, fragment=None), {"host": authority}, extensions)


async def get(
    url: str, allowed: Sequence[str], *, most: int, seconds: float, on_bytes: Callable[[int], None]
) -> bytes:
    """Fetch the content of an address.

    most: bytes that it may have.
    seconds: that fetching may take.
    on_bytes: called with the length of each part before it is kept.

    Raises AddressError, and whatever `on_bytes` raises.
    """
    try:
        async with asyncio.timeout(seconds):
            where = await target(url, allowed, seconds)
            return await _read(where, most, on_bytes)
    except TimeoutError:
        raise AddressError(f"The address did not answer within {seconds:g} seconds.") from None
    except (httpx.HTTPError, OSError) as error:  # its message may reveal the network behind
        raise AddressError("The address cannot be reached.") from error


async def _read(where: Target, most: int, on_bytes: Callable[[int], None]) -> bytes:
    headers = {"user-agent": f"danqing/{__version__}", "accept-encoding": "identity", "accept": "image/*"}
    async with (
        httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=None) as client,
        client.stream(
            "GET", where.url, headers={**headers, **where.headers}, extensions=dict(where.extensions)
        ) as response,
    ):
        if response.status_code != 200:
            advice = ": send the address that it redirects to" if response.is_redirect else ""
            raise AddressError(f"The address answers with status {response.status_code}{advice}.")
        content = bytearray()
        async for part in response.aiter_raw():
            if len(content) + len(part) > most:
                raise AddressError(
                    f"The file at the address has over {most:,} bytes: send a smaller picture."
                )
            on_bytes(len(part))
            content += part
    return bytes(content)


def _parsed(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url) if len(url) <= _LONGEST else None
        host = parsed.host if parsed else ""  # httpx decodes xn-- here, which may fail
    except (httpx.InvalidURL, ValueError):
        parsed, host = None, ""
    if parsed is None or parsed.scheme not in _PORTS or not host:
        raise AddressError("This is not an address of the form https://host/path.")
    if parsed.userinfo:
        raise AddressError("An address must not contain a password: remove the part before the @.")
    return parsed


def _matches(entry: str, host: str, port: int, usual: int) -> bool:
    if (literal := _literal(entry)) is not None:  # IPv6 addresses contain colons, and have no port here
        return literal == _literal(host) and port == usual
    name, colon, number = entry.rpartition(":")
    if not colon:
        name, number = entry, str(usual)
    if str(port) != number:
        return False
    if name.startswith("*."):
        return host.endswith(name[1:]) and _literal(host) is None
    return host == name.rstrip(".") or (_literal(name) is not None and _literal(name) == _literal(host))


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address in a host, None if the host is a name."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


async def _resolved(host: str, port: int, seconds: float) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address of a name; raises AddressError unless all its addresses are public."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise AddressError(f"There is no host {host[:100]}.") from None
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not addresses or not all(map(is_public, addresses)):
        raise AddressError(f"The host {host[:100]} has an address that is not public.")
    return addresses[0]


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether an address is public, and not translated."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if any(address in network for network in _TRANSLATED):
            return False
    return address.is_global and not address.is_multicast


def _named(url: httpx.URL) -> str:
    return url.netloc.decode("ascii", "replace")[:100]
