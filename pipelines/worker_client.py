"""Stands for a local worker process: the fork server forks it, and it lives as long as this program.

Beam starts a local worker as a command, waits for it and knows by its exit status whether it has failed. This is
that command. It is run by its path with Python's `-I -S`, so that it begins at once, and imports nothing but the
standard library.
"""

from __future__ import annotations

import json
import os
import socket
import sys

WORKER = "apache_beam.runners.worker.sdk_worker_main"
FORKED, DONE = b"f", b"d"
"""What a worker says when it has begun and when it has ended well."""


def socket_address(name: str) -> str:
    """Of the server's socket, in Linux's abstract namespace: whatever is killed, no file is left over."""
    return f"\0{name}"


def main(name: str) -> int:
    """Have a worker forked with this process's environment, directory and streams; returns its exit status."""
    request = json.dumps({"environment": dict(os.environ), "directory": os.getcwd()}).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(socket_address(name))
            socket.send_fds(connection, [len(request).to_bytes(8, "big")], [0, 1, 2])
            connection.sendall(request)
            forked = connection.recv(1)
        except OSError:
            forked = b""
        if forked != FORKED:  # the server has been killed
            os.execv(sys.executable, [sys.executable, "-m", WORKER])
        try:
            return 0 if connection.recv(1) == DONE else 1
        except ConnectionResetError:
            return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
