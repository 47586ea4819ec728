"""The door: who may call, from where, and how much they may send.  Plain ASGI, so that nothing is read before it is allowed."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import secrets
from urllib.parse import urlsplit

from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bowerbird.server.errors import ApiError, answer

MIB = 2**20
# The largest body of a route, by the beginning of its path; a client that sends more is read to here and told.
LIMITS = (
    ("/api/pictures", 256 * MIB),
    ("/v1/images/edits", 64 * MIB),
    ("/v1/images/variations", 64 * MIB),
    ("/sdapi/v1/img2img", 64 * MIB),
    ("/studio/gradio_api/upload", 256 * MIB),
    ("", 2 * MIB),
)
# What is read and thrown away of a body that is too large, because a client that cannot finish sending hears no answer.
SWALLOW_BYTES = 512 * MIB
OPEN = ("/health/live", "/health/ready", "/pictures/")  # without a key: a picture's address is itself a secret
MAX_AT_ONCE = 512  # requests in hand; more are told to come back


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets through what is allowed and counts it.

    Without a key the server is on loopback, where every page in the user's browser can reach it too: so the Host must be a
    name of this machine (no other name was made to point here), and an Origin, if there is one, must be our own.
    """

    def __init__(self, app: ASGIApp, key: str | None, answers: Counter, seconds: Histogram) -> None:
        self.app, self._key = app, key
        self._answers, self._seconds = answers, seconds
        self._at_once = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id, path = secrets.token_hex(8), scope["path"]
        headers, status = Headers(scope=scope), [500]

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                marked = MutableHeaders(scope=message)
                marked["x-request-id"] = request_id
                marked["x-content-type-options"] = "nosniff"
                marked["referrer-policy"] = "no-referrer"
            await send(message)

        exceeded: list[ApiError] = []

        async def send_unless_exceeded(message: Message) -> None:
            if not exceeded:  # else what the app makes of half a body is of no interest
                await send_marked(message)

        self._at_once += 1
        try:
            with self._seconds.time():
                try:
                    self._check_caller(headers, path)
                    bounded = await self._bounded(headers, path, receive, exceeded)
                except ApiError as error:
                    await answer(error, path)(scope, receive, send_marked)
                else:
                    await self.app(scope, bounded, send_unless_exceeded)
                    if exceeded:
                        await answer(exceeded[0], path)(scope, receive, send_marked)
        finally:
            self._at_once -= 1
            route = scope.get("route")
            self._answers.labels(getattr(route, "path", "none"), str(status[0])).inc()

    def _check_caller(self, headers: Headers, path: str) -> None:
        if self._at_once > MAX_AT_ONCE and not path.startswith(("/health/", "/metrics")):
            raise ApiError(503, "too many requests are in hand; ask again.", code="overloaded", headers={"Retry-After": "1"})
        host = headers.get("host", "")
        if self._key is None and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            raise ApiError(403, f"this server answers to localhost only, not to {host!r:.80}.", code="wrong_host")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise ApiError(403, "a page of another site may not use this server.", code="wrong_origin")
        if self._key is not None and not path.startswith(OPEN) and not self._is_key(headers.get("authorization", "")):
            challenge = {"WWW-Authenticate": "Bearer"}
            raise ApiError(
                401, "the API key is missing or wrong. Send it as: Authorization: Bearer KEY", code="invalid_api_key", headers=challenge
            )

    def _is_key(self, authorization: str) -> bool:
        """Bearer KEY, or Basic anybody:KEY as AUTOMATIC1111's clients send it."""
        assert self._key is not None
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode(), self._key.encode())

    @staticmethod
    async def _bounded(headers: Headers, path: str, receive: Receive, exceeded: list[ApiError]) -> Receive:
        """`receive` that stops at the limit of the route, and says so in `exceeded`.

        ApiError at once where the client says beforehand that it is too much.
        """
        limit = next(limit for start, limit in LIMITS if path.startswith(start))
        too_large = ApiError(413, f"the body is larger than the {limit // MIB} MiB that may be sent here.", code="body_too_large")
        length = headers.get("content-length", "0")
        if not length.isdigit():
            raise ApiError(400, "the Content-Length is no number.", code="invalid_body")
        if int(length) > limit:
            swallowed = 0
            while int(length) <= SWALLOW_BYTES and headers.get("expect") is None:
                message = await receive()
                swallowed += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    break
            too_large.headers["Connection"] = "close"
            raise too_large
        read = 0

        async def receive_bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                exceeded.append(too_large)
                raise too_large
            return message

        return receive_bounded
