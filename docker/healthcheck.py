"""Exits with 0 when the service on this container's port is ready.

A socket and no HTTP library: it runs every few seconds on CPUs that have other work.
"""

import os
import socket
import sys

try:
    with socket.create_connection(
        ("127.0.0.1", int(os.environ.get("CTR_PORT", "8000"))), 2
    ) as peer:
        peer.sendall(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        answer = peer.recv(4096)
except OSError as error:
    sys.exit(f"no answer: {error}")
if not answer.startswith(b"HTTP/1.1 200 "):
    sys.exit(answer.decode(errors="replace"))
