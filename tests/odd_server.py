"""Servers that do what they should not: wait, trickle, send elsewhere, page without end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """Answer every request like that while the context is open; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                answer(self)
            except OSError:  # the client has gone
                self.close_connection = True

        do_POST = do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def silent(_: BaseHTTPRequestHandler) -> None:
    time.sleep(60)


def trickles(request: BaseHTTPRequestHandler) -> None:
    """A byte of the body now and then."""
    request.send_response(200)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", "100000")
    request.end_headers()
    for _ in range(600):
        request.wfile.write(b" ")
        time.sleep(0.1)


def trickles_the_head(request: BaseHTTPRequestHandler) -> None:
    """A header now and then, and never a body."""
    request.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for i in range(90):
        request.wfile.write(f"X-{i}: 1\r\n".encode())
        time.sleep(0.1)


def floods(request: BaseHTTPRequestHandler) -> None:
    """More than anybody asked for."""
    request.send_response(200)
    request.send_header("Content-Type", "application/json")
    request.end_headers()
    while True:
        request.wfile.write(b" " * 65536)


def to(address: str) -> Answer:
    """Sends everybody elsewhere."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", address)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def gives(body: Callable[[str], bytes], media: str = "application/json") -> Answer:
    """What a function says about a path."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        found = body(request.path)
        request.send_response(200)
        request.send_header("Content-Type", media)
        request.send_header("Content-Length", str(len(found)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(found)

    return answer
