"""A stand-in of the Dataflow service: takes jobs over HTTP on loopback, keeps them and calls them done."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class DataflowService:
    """Answers as the service's REST interface v1b3 does, as far as a batch job needs."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.job_bytes: list[int] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                service.jobs.append(json.loads(body))
                service.job_bytes.append(len(body))
                self.answer({"clientRequestId": service.jobs[-1].get("clientRequestId", ""), **self.state()})

            def do_GET(self) -> None:
                self.answer({} if "/messages" in self.path else self.state())

            def state(self) -> dict[str, Any]:
                return {"id": f"job-{len(service.jobs)}", "type": "JOB_TYPE_BATCH", "currentState": "JOB_STATE_DONE"}

            def answer(self, found: dict[str, Any]) -> None:
                data = json.dumps(found).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """The word localhost is how Beam tells that it is not to ask for TLS."""
        return f"http://localhost:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
