"""nginx and haproxy in front of services, with the settings that people give them."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.programs import program
from tests.support.serving import free_port, wait_until

NGINX = """\
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_max_body_size 64m;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream ctr {{
{servers}
{pool}
  }}
  server {{
    listen 127.0.0.1:{port};
    keepalive_requests 1000000;
    location / {{
      proxy_pass http://ctr;
{headers}
    }}
  }}
}}
"""
HAPROXY = """\
global
  maxconn 1000
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  {retries}
frontend callers
  bind 127.0.0.1:{port}
  default_backend ctr
backend ctr
  option httpchk GET /ready
{servers}
"""


@contextmanager
def nginx(
    folder: Path, ports: Sequence[int], pooled: bool = False, pool_seconds: int = 60
) -> Iterator[int]:
    """Run nginx before services; ``pooled`` keeps its connections to them for ``pool_seconds``.

    Everything else is nginx' default.
    """
    executable, port = program("nginx"), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    headers = 'proxy_http_version 1.1; proxy_set_header Connection "";' if pooled else ""
    config = NGINX.format(
        user="user root;" if os.getuid() == 0 else "",
        folder=folder,
        port=port,
        servers="\n".join(f"    server 127.0.0.1:{each};" for each in ports),
        pool=f"    keepalive 32; keepalive_timeout {pool_seconds}s;" if pooled else "",
        headers=f"      {headers}",
    )
    (folder / "nginx.conf").write_text(config)
    with _running([executable, "-p", str(folder), "-c", str(folder / "nginx.conf")], folder, port):
        yield port


@contextmanager
def haproxy(
    folder: Path,
    ports: Sequence[int],
    check: str = "inter 300ms fall 2 rise 1",
    retries: str = "option redispatch",
) -> Iterator[int]:
    """Run haproxy before services, which it asks for /ready, as often as ``check`` says.

    ``retries`` is what becomes of a refused connection; by default another instance is asked.
    """
    executable, port = program("haproxy"), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    servers = "\n".join(f"  server ctr{each} 127.0.0.1:{each} check {check}" for each in ports)
    (folder / "haproxy.cfg").write_text(HAPROXY.format(port=port, servers=servers, retries=retries))
    with _running([executable, "-f", str(folder / "haproxy.cfg")], folder, port):
        yield port


@contextmanager
def _running(words: Sequence[str], folder: Path, port: int) -> Iterator[None]:
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT)
    try:

        def listens() -> bool:
            assert process.poll() is None, (folder / "output").read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_until(listens, f"{words[0]} listens")
        yield
    finally:
        process.terminate()
        process.wait(20)
