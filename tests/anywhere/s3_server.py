"""moto's S3 server in a process of its own, and a proxy before it that fails on demand. Loopback only."""

from __future__ import annotations

import http.client
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "not-so-secret-5ecret"
"""What the tests log in with; no text that a person sees may hold them."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise AssertionError("the server does not answer")


@dataclass
class Fault:
    """What the proxy does to the requests it picks."""

    kind: str
    """`status`, `reset`, `cut` (half of the answer's body, then a reset) or `slow`."""
    picks: Callable[[int, str, str], bool]
    """(number of the request, method, path) → whether it is hit."""
    status: int = 500
    code: str = "InternalError"
    body: str = ""
    """In place of S3's XML with the code."""
    retry_after: str = ""
    seconds: float = 0.0
    hits: int = 0


@dataclass
class Proxy:
    """Forwards to a server on loopback, but for what its fault picks."""

    upstream: int
    fault: Fault | None = None
    requests: int = 0
    seen: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_any(self) -> None:
                proxy.handle(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = int(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = _body_of(request)
        with self.lock:
            self.requests += 1
            number, fault = self.requests, self.fault
            self.seen.append(f"{request.command} {request.path}")
            hit = fault is not None and fault.picks(number, request.command, request.path)
            if hit and fault is not None:
                fault.hits += 1
        if not hit or fault is None:
            return _forward(self.upstream, request, body)
        if fault.kind == "reset":
            return _reset(request)
        if fault.kind == "slow":
            time.sleep(fault.seconds)
            return _forward(self.upstream, request, body)
        if fault.kind == "cut":
            return _forward(self.upstream, request, body, cut=True)
        text = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>no</Message></Error>".encode()
        if not fault.code:  # a gateway on the way, which speaks no XML
            text = b"<html><body>Bad Gateway</body></html>"
        kind = "application/xml" if fault.code else "text/html"
        if fault.body:
            text, kind = fault.body.encode(), "application/json"
        request.send_response(fault.status)
        request.send_header("Content-Type", kind)
        if fault.retry_after:
            request.send_header("Retry-After", fault.retry_after)
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        if request.command != "HEAD":
            with suppress(ConnectionError):
                request.wfile.write(text)
        return None

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def _body_of(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Expect", "").lower() == "100-continue":
        request.send_response_only(100)
        request.end_headers()
    if "chunked" in request.headers.get("Transfer-Encoding", ""):
        parts = []
        while size := int(request.rfile.readline().split(b";")[0], 16):
            parts.append(request.rfile.read(size))
            request.rfile.readline()
        request.rfile.readline()
        return b"".join(parts)
    return request.rfile.read(int(request.headers.get("Content-Length") or 0))


def _forward(port: int, request: BaseHTTPRequestHandler, body: bytes, cut: bool = False) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    dropped = ("expect", "transfer-encoding", "connection", "content-length")
    headers = {k: v for k, v in request.headers.items() if k.lower() not in dropped}
    headers["Content-Length"] = str(len(body))
    connection.request(request.command, request.path, body, headers)
    answer = connection.getresponse()
    data = answer.read()
    request.send_response_only(answer.status)
    for name, value in answer.getheaders():
        if name.lower() not in ("transfer-encoding", "connection", "content-length"):
            request.send_header(name, value)
    length = answer.getheader("Content-Length") if request.command == "HEAD" else str(len(data))
    request.send_header("Content-Length", length or "0")
    request.end_headers()
    if request.command != "HEAD":
        with suppress(ConnectionError):
            request.wfile.write(data[: len(data) // 2] if cut else data)
    connection.close()
    if cut:
        _reset(request)


def _reset(request: BaseHTTPRequestHandler) -> None:
    """Close so that the other side sees a reset and no orderly end."""
    request.close_connection = True
    request.wfile.flush()
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()


@dataclass
class S3Server:
    """A running server; buckets are made through its own door, not through what is tested."""

    port: int
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, log: Path) -> S3Server:
        port = free_port()
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=sink, stderr=sink
            )
        wait_for_port(port, process)
        return cls(port, process)

    def make_bucket(self, name: str) -> None:
        self._ask(name, method="PUT", data=b"")

    def upload(self, folder: Path, bucket: str, prefix: str) -> None:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.put(bucket, f"{prefix}/{path.relative_to(folder)}", path.read_bytes())

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Of objects; without the empty ones that stand for folders."""
        found = self._ask(f"{bucket}?list-type=2&max-keys=10000&prefix={prefix}").decode()
        return [key for key in re.findall(r"<Key>([^<]+)</Key>", found) if not key.endswith("/")]

    def get(self, bucket: str, key: str) -> bytes:
        return self._ask(f"{bucket}/{key}")

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self._ask(f"{bucket}/{key}", method="PUT", data=data)

    def _ask(self, path: str, method: str = "GET", data: bytes | None = None) -> bytes:
        headers = {
            # moto asks who calls but not whether the signature is right, and shows nothing to nobody.
            "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, Signature=x",
            "Content-Type": "application/octet-stream",  # else moto reads it as a form, and waits
        }
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)
