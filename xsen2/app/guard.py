"""Who may ask, from where, and what a job may read: hosts, origins, tokens, addresses.

Each user has a name that nobody else knows. A job reads the addresses that the chosen STAC API names, on http(s), and
none inside this network: an item says where its files lie, and whoever wrote the item chooses that. Without a check the
server would read, for anybody who can reach it, what only it can reach: its own loopback, a router, the metadata
service of a cloud.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xsen2.errors import SourceError

__all__ = ["Guard", "check_api", "checked", "is_loopback"]

_USER, _DOOR = "xsen2_user", "xsen2_door"
_YEAR = 31_536_000

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; font-src 'self'; "
    "img-src 'self' data: blob: https://tile.openstreetmap.org; worker-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load: itself, and the map of OpenStreetMap if it is chosen."""


def is_loopback(host: str) -> bool:
    """Whether a name or address to bind to is reached from this machine alone.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets a request in, or not, and says who it is from: ``scope["state"]["owner"]``.

    Parameters
    ----------
    app : ASGI application
    hosts : iterable of str
        Names in the header ``Host`` that are this server's: others come from a page whose name was pointed at this
        machine (DNS rebinding). Addresses in numbers cannot be, and are taken unless only loopback is served.
    local : bool
        Whether the server is bound to loopback.
    token : str, optional
        Whoever has no cookie that says so must bring it: ``?token=`` at the page's address once, or
        ``Authorization: Bearer``.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], local: bool, token: str | None) -> None:
        self.app, self.local, self.token = app, local, token
        self.hosts = {host.lower() for host in hosts} | {"localhost"}
        self._door = "" if token is None else hashlib.sha256(f"xsen2 app {token}".encode()).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope)
        cookies = _cookies(request.headers)
        new: list[str] = []

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Cache-Control", "no-store")
                headers["Content-Security-Policy"] = POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
                headers["Cross-Origin-Opener-Policy"] = "same-origin"
                for cookie in new:
                    headers.append("Set-Cookie", cookie)
            await send(message)

        wrong = self._from_elsewhere(request)
        if wrong:
            await PlainTextResponse(wrong, 403)(scope, receive, sent)
            return
        if self.token is not None and not self._inside(request, cookies):
            brought = request.query_params.get("token", "")
            home = request.method == "GET" and _path(scope) == "/"
            if home and brought and hmac.compare_digest(brought.encode(), self.token.encode()):
                new.append(_cookie(_DOOR, self._door, scope))
                await RedirectResponse("./", 303)(scope, receive, sent)  # the token leaves the address
                return
            say = "this app needs its token: open the address that was printed when it was started, with ?token=…"
            await PlainTextResponse(say, 401)(scope, receive, sent)
            return
        user = cookies.get(_USER, "")
        if not re.fullmatch(r"[A-Za-z0-9_-]{43}", user):
            if _path(scope) != "/":
                say = "no cookie says whose jobs these are: open the app's page first, and let it set one"
                await PlainTextResponse(say, 401)(scope, receive, sent)
                return
            user = secrets.token_urlsafe(32)
            new.append(_cookie(_USER, user, scope))
        scope.setdefault("state", {})["owner"] = hashlib.sha256(user.encode()).hexdigest()
        await self.app(scope, receive, sent)

    def _from_elsewhere(self, request: Request) -> str | None:
        """Why a request is not from this app's own page, if so."""
        given = request.headers.getlist("host")
        if len(given) != 1 or not self._known(given[0]):
            return "this is not a name of this server: start it with --name if it has others"
        origin = request.headers.get("origin")
        if origin is not None and (not self._known(urlsplit(origin).netloc) or not self._same(origin, given[0])):
            return "another site's page asks, which this server does not answer"
        site = request.headers.get("sec-fetch-site")
        reading = request.method in ("GET", "HEAD")
        navigating = request.headers.get("sec-fetch-mode") == "navigate" and _path(request.scope) == "/" and reading
        if site in ("cross-site", "same-site") and not navigating:
            return "another site's page asks, which this server does not answer"
        return None

    @staticmethod
    def _same(origin: str, host: str) -> bool:
        """Whether an origin is the host itself; a proxy in front may speak https where this is http."""
        return urlsplit(origin).netloc.lower().removesuffix(":443") == host.lower().removesuffix(":443")

    def _known(self, netloc: str) -> bool:
        """Whether host and port may be this server's."""
        if not re.fullmatch(r"[A-Za-z0-9.-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?", netloc):
            return False
        host = (urlsplit(f"//{netloc}").hostname or "").rstrip(".").lower()
        if host in self.hosts:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return address.is_loopback if self.local else True

    def _inside(self, request: Request, cookies: dict[str, str]) -> bool:
        """Whether the token has been shown."""
        assert self.token is not None
        bearer = request.headers.get("authorization", "")
        shown = bearer.removeprefix("Bearer ") if bearer.startswith("Bearer ") else ""
        return hmac.compare_digest(cookies.get(_DOOR, "").encode(), self._door.encode()) or hmac.compare_digest(
            shown.encode(), self.token.encode()
        )


def _path(scope: Scope) -> str:
    """The path below what a proxy adds."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) or "/"


def _cookies(headers: Headers) -> dict[str, str]:
    cookies: dict[str, str] = {}
    for line in headers.getlist("cookie"):
        for part in line.split(";"):
            name, _, value = part.strip().partition("=")
            cookies.setdefault(name, value)
    return cookies


def _cookie(name: str, value: str, scope: Scope) -> str:
    """A cookie that no script reads and no other site's request carries; its value is letters, digits, - and _."""
    secure = scope.get("scheme") == "https" or Headers(scope=scope).get("x-forwarded-proto") == "https"
    home = f"{scope.get('root_path', '').rstrip('/')}/"
    return f"{name}={value}; Path={home}; Max-Age={_YEAR}; HttpOnly; SameSite=Lax{'; Secure' if secure else ''}"


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
    addresses = _resolved(home.hostname or "")
    loopback = bool(addresses) and all(address.is_loopback for address in addresses)
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
    addresses = _resolved(host)
    if not addresses:
        return f"is on {host[:80]!r}, which has no address here"
    for address in addresses:
        if address.is_loopback and loopback:
            continue
        if not address.is_global or address.is_multicast:
            return f"is on {host[:80]!r}, inside this network ({address}), where the API is not"
    return None


def _resolved(host: str) -> list[_Address]:
    """The addresses of a host; none if it has none."""
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    addresses = []
    for info in infos:
        address = ipaddress.ip_address(str(info[4][0]).partition("%")[0])
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        addresses.append(mapped or address)
    return addresses
