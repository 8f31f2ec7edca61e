#!/usr/bin/env python3
"""WebSockets through the router and through nginx, HAProxy and Caddy: memory of an idle one, CPU of a message, on loopback.

  cargo build --release --example proxy
  benches/websockets.py [--connections N] [--rounds N] [--only NAME,NAME]

So many connections are opened through each proxy, to an app that echoes. Memory is the proxy's own (PSS of its processes)
beyond what it took before, divided by connections, when nobody has spoken for two seconds; the kernel's part, which is the
same for all, isn't in it. Then each connection sends a message in turn and waits for its echo, --rounds times; the figure is
the proxy's CPU time per message and its echo. Each proxy gets one core; app and clients share another one. Where fewer
files are allowed than that takes, there are fewer connections.
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import os
import pathlib
import resource
import tempfile

import router

MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
TEXT = b"hello through the router, again!"
MASKED = bytes([0x81, 0x80 | len(TEXT), 0, 0, 0, 0]) + TEXT  # a mask of zeros is one, too
ECHO = bytes([0x81, len(TEXT)]) + TEXT
NGINX = """
worker_processes 1; daemon off; pid {dir}/ws.pid; error_log {dir}/ws.err crit; 
events {{ worker_connections 32768; }}
http {{
  access_log {dir}/ws.log combined buffer=64k flush=1s;
  server {{ listen {listen} backlog=4096; location / {{
    proxy_pass http://{app}; proxy_http_version 1.1; proxy_read_timeout 1h;
    proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade"; proxy_set_header Host $host;
  }} }}
}}
"""
HAPROXY = """
global
  nbthread 1
  maxconn 9800
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
frontend all
  bind {listen} backlog 4096
  default_backend app
backend app
  server app {app}
"""


class App(asyncio.Protocol):
    """Agrees to a WebSocket and echoes its messages, of which it reads one at a time."""

    def connection_made(self, transport):
        self.transport, self.greeted = transport, False

    def data_received(self, data):
        if self.greeted:
            return self.transport.write(ECHO)
        self.greeted = True
        accept = base64.b64encode(hashlib.sha1((KEY + MAGIC).encode()).digest()).decode()
        head = f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        self.transport.write(head.encode())


class Client(asyncio.Protocol):
    """Opens a WebSocket; each answer, that of the opening first, is waited for with `came`."""

    def connection_made(self, transport):
        self.transport = transport
        self.ask(
            f"GET / HTTP/1.1\r\nHost: bench.localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n".encode()
        )

    def ask(self, data):
        self.came = asyncio.get_running_loop().create_future()
        self.transport.write(data)

    def data_received(self, data):
        if not self.came.done() and (data.endswith(b"\r\n\r\n") or data.endswith(ECHO)):
            self.came.set_result(data)

    def connection_lost(self, error):
        if not self.came.done():
            self.came.set_exception(ConnectionError(f"closed: {error}"))


def memory(pid):
    """Of a process and its children, in bytes."""
    total = 0
    for one in (pid, *router.children(pid)):
        with contextlib.suppress(OSError):
            text = pathlib.Path(f"/proc/{one}/smaps_rollup").read_text()
            total += int(text.split("\nPss:")[1].split()[0]) * 1024
    return total


def commands(folder, listen, app):
    found = router.commands(folder, listen, app, False)
    (folder / "ws-nginx.conf").write_text(NGINX.format(dir=folder, listen=listen, app=app))
    (folder / "ws-haproxy.cfg").write_text(HAPROXY.format(listen=listen, app=app))
    found["nginx"] = ["nginx", "-c", str(folder / "ws-nginx.conf")]
    found["haproxy"] = ["haproxy", "-db", "-f", str(folder / "ws-haproxy.cfg")]
    return {name: found[name] for name in ("nginx", "haproxy", "caddy", "router") if name in found}


async def measure(pid, listen, options):
    loop = asyncio.get_running_loop()
    host, port = listen.split(":")
    before, clients = memory(pid), []
    for _ in range(0, options.connections, 100):
        some = await asyncio.gather(*(loop.create_connection(Client, host, int(port)) for _ in range(100)))
        some = [client for _, client in some]
        for client in some:
            answer = await asyncio.wait_for(client.came, 30)
            assert answer.startswith(b"HTTP/1.1 101"), answer
        clients += some
    await asyncio.sleep(2)  # what idles is measured
    each = (memory(pid) - before) / len(clients)
    used = router.cpu(pid)
    for _ in range(options.rounds):
        for client in clients:
            client.ask(MASKED)
        for client in clients:
            await asyncio.wait_for(client.came, 30)
    used = (router.cpu(pid) - used) / (options.rounds * len(clients)) * 1e6
    for client in clients:
        client.transport.abort()
    return each, used


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only")
    options = parser.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    # Each takes two, at the proxy and here
    options.connections = min(options.connections, (files - 500) // 200 * 100)
    print(f"{options.connections} connections\n")
    os.sched_setaffinity(0, {0})
    with tempfile.TemporaryDirectory(prefix="websockets-bench-") as folder:
        os.chmod(folder, 0o755)
        app = router.free_port()
        host, port = app.split(":")
        server = await asyncio.get_running_loop().create_server(App, host, int(port), backlog=4096)
        print("| proxy | bytes per idle connection | CPU us per message and echo |\n|---|---|---|")
        async with server:
            listen = router.free_port()
            for name, command in commands(pathlib.Path(folder), listen, app).items():
                if options.only and name not in options.only.split(","):
                    continue
                with router.running(command, 1, listen) as pid:
                    each, used = await measure(pid, listen, options)
                print(f"| {name} | {each:.0f} | {used:.1f} |", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
