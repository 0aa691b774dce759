"""Which addresses a job may read: those that the chosen STAC API names, on http(s), and none inside this network.

An item says where its files lie, and whoever wrote the item chooses that. Without a check the server would read, for
anybody who can reach it, what only it can reach: its own loopback, a router, the metadata service of a cloud.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from xsen2.errors import SourceError

__all__ = ["check_api", "checked"]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_api(api: str) -> str:
    """The address of an API, from the command line.

    Raises
    ------
    SourceError
        It is not on http(s), or holds a name and password.

    Examples
    --------
    >>> check_api("https://earth-search.aws.element84.com/v1")
    'https://earth-search.aws.element84.com/v1'
    """
    parts = urlsplit(api)
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise SourceError(f"{api[:200]!r} is no address of a STAC API: give one that begins with https://")
    if parts.username or parts.password:
        raise SourceError("an address with a password in it would be shown to everybody: leave it out")
    return api


def checked(items: Iterable[Any], api: str) -> list[Any]:
    """Items with those assets alone that may be read; alternates are left out.

    Parameters
    ----------
    items : iterable of pystac.Item
        With absolute hrefs.
    api : str
        Where they were found.

    Returns
    -------
    list of pystac.Item
        Copies.

    Raises
    ------
    SourceError
        An item has no asset that may be read; says which rule its first one breaks.
    """
    home = urlsplit(api)
    own = _resolved(home.hostname or "")
    loopback = bool(own) and all(one.is_loopback for one in own)
    known: dict[str, str | None] = {}
    out = []
    for item in items:
        item = item.clone()
        why = "it has no assets"
        for key, asset in list(item.assets.items()):
            asset.extra_fields.pop("alternate", None)
            parts = urlsplit(str(asset.href))
            reason = _scheme(asset.href)
            if reason is None:
                host = str(parts.hostname).lower()
                if host not in known:
                    known[host] = _host(host, (home.hostname or "").lower(), loopback)
                reason = known[host]
            if reason is not None:
                why = f"its asset {key!r:.60} {reason}"
                del item.assets[key]
        if not item.assets:
            raise SourceError(f"no file of scene {item.id!r:.200} may be read: {why}")
        out.append(item)
    return out


def _scheme(href: object) -> str | None:
    """Why an address is not one of the web, if it is not."""
    text = str(href)
    try:
        parts = urlsplit(text)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        return "has no address that can be read"
    if parts.scheme.lower() not in ("http", "https") or not host:
        return f"is at {text[:80]!r}, which is not on http(s)"
    if parts.username is not None or parts.password is not None:
        return "has a name or password in its address"
    if any(ord(sign) < 33 or ord(sign) == 127 or sign == "\\" for sign in text):
        return "has an address with signs that none may have"
    return None


def _host(host: str, home: str, loopback: bool) -> str | None:
    """Why nothing is read from a host, if so."""
    if host == home:
        return None
    found = _resolved(host)
    if not found:
        return f"is on {host[:80]!r}, which has no address here"
    for one in found:
        if one.is_loopback and loopback:
            continue
        if not one.is_global or one.is_multicast:
            return f"is on {host[:80]!r}, inside this network ({one}), where the API is not"
    return None


def _resolved(host: str) -> list[_Address]:
    """The addresses of a host; none if it has none."""
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    found = []
    for info in infos:
        one = ipaddress.ip_address(str(info[4][0]).partition("%")[0])
        mapped = one.ipv4_mapped if isinstance(one, ipaddress.IPv6Address) else None
        found.append(mapped or one)
    return found
