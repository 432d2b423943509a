"""Which hosts and origins may use a service without keys, and who may use the session of a browser."""

import functools
import ipaddress
import re
from collections.abc import Mapping

from danqing.errors import ConfigError
from danqing.service.errors import ApiError, printable

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing (RFC 9110, section 9.2.1)."""

_FOR = re.compile(rb"(?:^|;)\s*for\s*=\s*\"?(\[[^\]]*\]|[^\s;:\"]+)", re.IGNORECASE)
_HOST = re.compile(rb"(\[[0-9a-f:.]+\]|[^\s:/@\[\]]+)(?::\d{1,5})?")


def is_local(host: str) -> bool:
    """Return whether an address or name is the loopback."""
    name = host.lower().rstrip(".").removeprefix("[").removesuffix("]")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_address(host: str, has_keys: bool) -> None:
    """Raise ConfigError for a public address of a service without keys."""
    if not has_keys and not is_local(host):
        raise ConfigError(
            f"Anyone who reaches {host or 'this machine'} could use the service, because it has no keys: "
            "create one with `danqing keys create NAME`, or listen on 127.0.0.1."
        )


def check_cookie(method: str, headers: Mapping[bytes, bytes]) -> None:
    """Raise ApiError 403 unless a request with our cookie comes from our own page.

    Browsers attach cookies to what pages of other sites send. A page elsewhere on this host, at another
    port, is another site as well.
    """
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin", b"").lower()
    host = headers.get(b"host", b"").lower()
    is_ours = origin in (b"http://" + host, b"https://" + host) if site is None else site == b"same-origin"
    if method in SAFE_METHODS and (site == b"none" or (site is None and not origin)):
        is_ours = True  # somebody typed the address, or the browser does not say who asks
    if not is_ours:
        raise ApiError(403, "Pages of other sites may not use this session.", code="origin_not_allowed")


class OriginCheck:
    """Checks the sender of a request to a service without keys.

    Pages of other sites must not use the browser of the person who runs the service (DNS rebinding, CSRF),
    and a proxy must not let others in unnoticed.

    hosts: names in a `Host` header that the service accepts, in addition to those of the loopback.
    """

    def __init__(self, hosts: tuple[str, ...]) -> None:
        self._has_proxy = bool(hosts)
        self._hosts = frozenset(host.lower() for host in hosts)
        self._is_ours = functools.lru_cache(maxsize=256)(self._is_our_host)

    def check(self, method: str, headers: Mapping[bytes, bytes]) -> None:
        """Raise ApiError 403 for another host, another origin or an unknown proxy."""
        host = headers.get(b"host", b"").lower()
        if not self._is_ours(host):
            raise ApiError(
                403,
                f"This service is not the host {printable(host)}: use localhost, or add the host to `hosts`.",
                code="host_not_allowed",
            )
        origin = headers.get(b"origin")
        if origin is not None and origin.lower() not in (b"http://" + host, b"https://" + host):
            raise ApiError(
                403, f"Pages of {printable(origin)} may not use this service.", code="origin_not_allowed"
            )
        if not self._has_proxy and (sender := _forwarded_for(headers)):
            raise ApiError(
                403,
                f"A proxy forwards requests of {sender} to this service, which has no keys: create one with "
                "`danqing keys create NAME`, or add the host that the proxy answers for to `hosts`.",
                code="forwarded_without_keys",
            )
        if method not in SAFE_METHODS and headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
            raise ApiError(403, "Pages of other sites may not use this service.", code="origin_not_allowed")

    def _is_our_host(self, host: bytes) -> bool:
        """Return whether a `Host` names this machine, where no other site can have a page."""
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].decode("latin-1")
        return is_local(name) or name in self._hosts


def _forwarded_for(headers: Mapping[bytes, bytes]) -> str:
    """Return the address that a proxy forwards the request of, unless it is this machine; else ""."""
    senders = [headers.get(b"x-real-ip", b""), *headers.get(b"x-forwarded-for", b"").split(b",")]
    for element in filter(None, headers.get(b"forwarded", b"").split(b",")):  # RFC 7239
        match = _FOR.search(element)
        senders.append(match[1] if match else b"somebody")
    for sender in map(bytes.strip, senders):
        if sender and not is_local(sender.decode("latin-1")):
            return printable(sender)
    return ""
