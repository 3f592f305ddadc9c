"""What stands between the network and the routes: who may ask, how much at a time, and what a browser may do."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Everything comes from the service itself; nothing is run or styled from within the page, nor is it framed.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

#: Seconds for a request's body to arrive.
BODY_SECONDS = 30.0

#: Bytes of a body that is too large that are read all the same, and forgotten: many clients send all of a body before
#: they look at the answer, and never see it where the connection is closed before.
DRAINED = 16 * 2**20

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error in the one form that all of them have."""
    body: dict[str, Any] = {"error": {"status": status, "message": message}}
    return JSONResponse(body, status_code=status, headers=dict(headers or {}))


class Guard:
    """ASGI middleware: bearer token, host names, size of bodies, security headers.

    Args:
        app: What is guarded.
        token: What `Authorization: Bearer ...` must be; None lets everyone ask.
        public: Paths that need no token.
        max_body: Largest body in bytes.
        hosts: Host names that requests may be for, which keeps web pages elsewhere from reaching a service on this
            machine under a name of their own (DNS rebinding); None allows all.
    """

    def __init__(
        self, app: ASGIApp, *, token: str | None, public: frozenset[str], max_body: int, hosts: frozenset[str] | None
    ) -> None:
        self._app = app
        self._token = token.encode() if token is not None else None
        self._public = public
        self._max_body = max_body
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refusal(scope["path"], headers)
        if refusal is None and scope["method"] not in ("GET", "HEAD"):
            body = await self._body(headers, receive)
            if isinstance(body, JSONResponse):
                refusal = body
            else:
                receive = _replay(body, receive)
        await (self._app if refusal is None else refusal)(scope, receive, send_with_headers)

    def _refusal(self, path: str, headers: Headers) -> JSONResponse | None:
        if self._hosts is not None and _host_name(headers.get("host", "")) not in self._hosts:
            return error_response(400, "this service is not known by that host name")
        if self._token is None or path in self._public:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and secrets.compare_digest(given.strip().encode(), self._token):
            return None
        return error_response(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})

    async def _body(self, headers: Headers, receive: Receive) -> bytes | JSONResponse:
        too_large = error_response(413, f"the body is larger than {self._max_body:,} bytes", {"Connection": "close"})
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._max_body + DRAINED:
            return too_large
        try:
            body = await asyncio.wait_for(_read(receive, self._max_body), BODY_SECONDS)
        except asyncio.TimeoutError:
            return error_response(408, "the body did not arrive in time", {"Connection": "close"})
        return too_large if body is None else body


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The whole body; None where it is longer than the limit."""
    body, size = bytearray(), 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)  # the client is gone
        part = message.get("body", b"")
        size += len(part)
        if size <= limit:
            body += part
        if size > limit + DRAINED or not message.get("more_body"):
            return bytes(body) if size <= limit else None


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replaying() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replaying


def _host_name(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
