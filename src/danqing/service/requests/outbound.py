"""Requests to other hosts: only to those that are named, and to the very address that was checked.

A name is resolved once. Where all of its addresses are public the connection goes to one of them, whatever
the name says a moment later (DNS rebinding); redirections are not followed, and what is compressed stays so.
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

# Addresses of IPv6 that lead to one of IPv4, which could be any: NAT64 (RFC 6052, 8215), 6to4, Teredo.
_TRANSLATED = tuple(
    ipaddress.IPv6Network(network)
    for network in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")
)


class AddressError(DanqingError):
    """An address that the service does not call, or that gave nothing."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: what httpx is to be given, beside `follow_redirects=False`.

    url: with the checked address in the place of the name, which stands in `headers` and, for TLS, in
    `extensions`.
    """

    url: httpx.URL
    headers: Mapping[str, str]
    extensions: Mapping[str, Any]


async def target(url: str, allowed: Sequence[str], seconds: float = 10.0) -> Target:
    """Where a request to `url` goes; raises AddressError for one that is not allowed.

    allowed: names of hosts, `*.example.org` for all below a domain, with `:port` where it is not the scheme's
    own. A name must have public addresses alone; another address must itself stand there, as a number.
    """
    parsed = _parsed(url)
    host, port = parsed.host.rstrip(".").lower(), parsed.port or _PORTS[parsed.scheme]
    if not any(_matches(entry.lower(), host, port, _PORTS[parsed.scheme]) for entry in allowed):
        raise AddressError(f"The service may not call {_named(parsed)}: whoever runs it can allow the host.")
    address = _literal(host) or await _resolved(host, port, seconds)
    authority = parsed.netloc.decode("ascii")
    extensions = {} if parsed.scheme == "http" else {"sni_hostname": host}
    shown = f"[{address}]" if isinstance(address, ipaddress.IPv6Address) else str(address)
    return Target(parsed.copy_with(host=shown, fragment=None), {"host": authority}, extensions)


async def get(
    url: str, allowed: Sequence[str], *, most: int, seconds: float, on_bytes: Callable[[int], None]
) -> bytes:
    """What lies at an address, of `most` bytes at most, within so many seconds. Raises AddressError, and what
    `on_bytes` does, which is told of each part how long it is before it is kept.
    """
    try:
        async with asyncio.timeout(seconds):
            where = await target(url, allowed, seconds)
            return await _read(where, most, on_bytes)
    except TimeoutError:
        raise AddressError(f"The address did not answer within {seconds:g} seconds.") from None
    except (httpx.HTTPError, OSError) as error:  # what it says may tell of the network behind
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
            advice = ": give the address where it leads" if response.is_redirect else ""
            raise AddressError(f"The address answers with status {response.status_code}{advice}.")
        content = bytearray()
        async for part in response.aiter_raw():
            if len(content) + len(part) > most:
                raise AddressError(f"There are over {most:,} bytes at the address: give a smaller picture.")
            on_bytes(len(part))
            content += part
    return bytes(content)


def _parsed(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url) if len(url) <= _LONGEST else None
        host = parsed.host if parsed else ""  # which is where httpx decodes xn--, and may find it wrong
    except (httpx.InvalidURL, ValueError):
        parsed, host = None, ""
    if parsed is None or parsed.scheme not in _PORTS or not host:
        raise AddressError("This is no address of the form https://host/path.")
    if parsed.userinfo:
        raise AddressError("An address must not hold a password: leave out what stands before the @.")
    return parsed


def _matches(entry: str, host: str, port: int, usual: int) -> bool:
    if (literal := _literal(entry)) is not None:  # an address of IPv6 has colons, and no port after them
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
    """The address that a host is when it is no name."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


async def _resolved(host: str, port: int, seconds: float) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address of a name, all of whose addresses are public."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise AddressError(f"There is no host {host[:100]}.") from None
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not addresses or not all(map(is_public, addresses)):
        raise AddressError(f"The host {host[:100]} is none that everybody can reach.")
    return addresses[0]


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is one that the whole internet reaches, and leads to no other."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if any(address in network for network in _TRANSLATED):
            return False
    return address.is_global and not address.is_multicast


def _named(url: httpx.URL) -> str:
    return url.netloc.decode("ascii", "replace")[:100]
