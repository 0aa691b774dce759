"""Who may ask, and from where: hosts, origins, the token, and a name for each user that nobody else knows."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard", "is_loopback"]

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
    found: dict[str, str] = {}
    for line in headers.getlist("cookie"):
        for part in line.split(";"):
            name, _, value = part.strip().partition("=")
            found.setdefault(name, value)
    return found


def _cookie(name: str, value: str, scope: Scope) -> str:
    """A cookie that no script reads and no other site's request carries; its value is letters, digits, - and _."""
    secure = scope.get("scheme") == "https" or Headers(scope=scope).get("x-forwarded-proto") == "https"
    home = f"{scope.get('root_path', '').rstrip('/')}/"
    return f"{name}={value}; Path={home}; Max-Age={_YEAR}; HttpOnly; SameSite=Lax{'; Secure' if secure else ''}"
