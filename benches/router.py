#!/usr/bin/env python3
"""The router beside nginx, HAProxy and Caddy, in one run, on loopback.

  cargo build --release --example proxy
  benches/router.py [--rounds N] [--seconds N] [--connections N] [--size BYTES] [--http2] [--only NAME,NAME]
  benches/router.py --hosts 1,1000,100000 [--asked N] [--rounds N] [--seconds N]

Takes wrk (h2load for --http2) and whichever of nginx, HAProxy and Caddy is installed; nginx is needed, it is the app, too. Each
proxy gets one thread on one core; load and app share another one. All proxies do the same work: they keep connections, add
X-Forwarded-For and X-Forwarded-Proto; those called +log also make a request id and write an access log. The router
always does.

Rounds are interleaved, each in another order, and each figure is compared with nginx+log's of the same round; CPU time per
request is the proxy's own, from /proc. Both survive a machine on which others work, requests per second don't.

With --hosts it is the router alone, with so many hosts in its table; figures are compared with the first's. Requests are for up
to a thousand of them, or --asked so many: each of those has idle connections of its own, which cost the kernel something, so
that only sizes of which as many are asked for tell what the table costs.
"""

import argparse
import contextlib
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROUTER = ROOT / "target/release/examples/proxy"
BASE = "nginx+log"
NGINX = """
worker_processes 1; daemon off; pid {dir}/{name}.pid; error_log {dir}/{name}.err crit;
events {{ worker_connections 16384; }}
http {{
  keepalive_requests 1000000000; keepalive_timeout 1h; {log}
  {body}
}}
"""
NGINX_PROXY = """
  upstream app {{ server {app}; keepalive 256; keepalive_requests 1000000000; }}
  server {{ listen {listen} backlog=4096{http2}; location / {{
    proxy_pass http://app; proxy_http_version 1.1; proxy_buffers 16 64k; proxy_buffer_size 64k;
    proxy_set_header Connection ""; proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto http; {id}
  }} }}
"""
NGINX_LOG = """
  log_format router 'at=info method=$request_method path="$request_uri" host=$host request_id=$request_id fwd="$remote_addr" '
    'connect=$upstream_connect_time service=$upstream_response_time status=$status bytes=$bytes_sent';
  access_log {dir}/nginx.log router buffer=64k flush=1s;
"""
HAPROXY = """
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  http-reuse always
  option forwardfor
frontend all
  bind {listen} backlog 4096{http2}
  http-request set-header X-Forwarded-Proto http
  default_backend app
backend app
  server app {app} pool-max-conn 1024
"""
LUA = """
local hosts = {{ {hosts} }}
local requests = {{}}
init = function(args)
  for at, host in ipairs(hosts) do requests[at] = wrk.format("GET", "/", {{ Host = host }}) end
end
local at = 0
request = function()
  at = at % #requests + 1
  return requests[at]
end
"""
CADDY = """{{
  admin off
  auto_https off
  log {{
    output discard
  }}
  servers {{
    protocols h1 h2 h2c
  }}
}}
http://:{port} {{
  bind 127.0.0.1
  reverse_proxy {app} {{
    transport http {{
      keepalive_idle_conns_per_host 1024
      compression off
    }}
  }}
}}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def commands(folder, listen, app, http2):
    """The command of each proxy that is here."""

    def write(name, text):
        (folder / name).write_text(text)
        return str(folder / name)

    def nginx(name, log, request_id):
        body = NGINX_PROXY.format(app=app, listen=listen, http2=" http2" if http2 else "", id=request_id)
        return ["nginx", "-c", write(name, NGINX.format(dir=folder, name=name, log=log, body=body))]

    found = {
        "nginx": nginx("nginx", "access_log off;", ""),
        BASE: nginx("nginx-log", NGINX_LOG.format(dir=folder), "proxy_set_header X-Request-Id $request_id;"),
        "haproxy": [
            "haproxy",
            "-db",
            "-f",
            write("haproxy.cfg", HAPROXY.format(listen=listen, app=app, http2=" proto h2" if http2 else "")),
        ],
        "caddy": [
            "caddy",
            "run",
            "--adapter",
            "caddyfile",
            "--config",
            write("Caddyfile", CADDY.format(port=listen.split(":")[1], app=app)),
        ],
        "router": [
            str(ROUTER),
            *("--listen", listen, "--route", f"bench.localhost={app}"),
            *("--access-log", str(folder / "router.log")),
        ],
    }
    return {name: command for name, command in found.items() if shutil.which(command[0])}


def routers(folder, listen, app, sizes, most):
    """The router with so many hosts, and what makes wrk ask for them."""
    found = {}
    for size in sizes:
        routes = folder / f"routes-{size}"
        routes.write_text("".join(f"host-{number}.localhost {app}\n" for number in range(size)))
        asked = ",".join(f'"host-{number}.localhost"' for number in random.Random(1).sample(range(size), min(size, most)))
        (folder / f"hosts-{size}.lua").write_text(LUA.format(hosts=asked))
        found[f"{size} hosts"] = [
            str(ROUTER),
            *("--listen", listen, "--routes", str(routes)),
            *("--access-log", str(folder / "router.log")),
        ]
    return found


@contextlib.contextmanager
def running(command, core, address):
    """A program on this core, once it accepts connections."""
    environment = dict(os.environ, GOMAXPROCS="1")
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = subprocess.Popen(["taskset", "-c", str(core), *command], env=environment, **quiet)
    try:
        host, port = address.split(":")
        for _ in range(500):
            with contextlib.suppress(OSError):
                socket.create_connection((host, int(port)), 0.2).close()
                break
            time.sleep(0.02)
        else:
            sys.exit(f"{command[0]} doesn't listen on {address}")
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def stat(pid):
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def children(pid):
    """A process' children and theirs."""
    found = [pid]
    for entry in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        with contextlib.suppress(OSError):
            if int(stat(entry)[1]) in found:
                found.append(entry)
    return found[1:]


def cpu(pid):
    """What a process and its children have used, in seconds."""
    ticks = 0
    for one in (pid, *children(pid)):
        with contextlib.suppress(OSError):
            ticks += sum(map(int, stat(one)[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def load(address, seconds, options, script=None):
    """Requests per second, p99 in milliseconds, requests, and what went wrong."""
    url = f"http://{address}/"
    if options.http2:
        out = run("h2load", "-t1", "-c8", "-m8", f"-D{seconds}", "-H", ":authority: bench.localhost", url)
        requests = int(re.search(r"requests: (\d+) total", out)[1])
        failed = re.search(r"(\d+) failed, (\d+) errored", out)
        bad = "" if failed[0].startswith("0 failed, 0 ") else failed[0]
        return requests / seconds, float("nan"), requests, bad
    host = ("-s", str(script)) if script else ("-H", "Host: bench.localhost")
    out = run("wrk", "-t1", f"-c{options.connections}", f"-d{seconds}s", "--latency", *host, url)
    # wrk has no number where no answer came whole within its time
    p99 = re.search(r"(?m)^\s+99%\s+([\d.]+)(us|ms|s)$", out)
    p99 = float(p99[1]) * {"us": 0.001, "ms": 1, "s": 1000}[p99[2]] if p99 else float("nan")
    bad = "; ".join(re.findall(r"Socket errors.*|Non-2xx.*", out))
    rate, requests = (re.search(what, out)[1] for what in (r"Requests/sec:\s+([\d.]+)", r"(\d+) requests in"))
    return float(rate), p99, int(requests), bad


def run(*command):
    return subprocess.run(["taskset", "-c", "0", *command], capture_output=True, text=True, check=True).stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--size", type=int, default=2)
    parser.add_argument("--http2", action="store_true")
    parser.add_argument("--only")
    parser.add_argument("--hosts", type=lambda text: [int(size) for size in text.split(",")])
    parser.add_argument("--asked", type=int, default=1000)
    options = parser.parse_args()
    if not ROUTER.exists():
        sys.exit("first: cargo build --release --example proxy")
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="router-bench-", dir=memory) as folder:
        os.chmod(folder, 0o755)  # nginx's workers are another user
        measure(options, pathlib.Path(folder))


def measure(options, folder):
    app, listen = free_port(), free_port()
    served = f'server {{ listen {app} backlog=4096; location / {{ default_type text/plain; return 200 "{"x" * options.size}"; }} }}'
    if options.size > 4000:
        (folder / "index.html").write_text("x" * options.size)
        served = f"server {{ listen {app} backlog=4096; root {folder}; sendfile on; }}"
    config = folder / "app.conf"
    config.write_text(NGINX.format(dir=folder, name="app", log="access_log off;", body=served))
    proxies = commands(folder, listen, app, options.http2)
    scripts = {}
    if options.hosts:
        proxies = routers(folder, listen, app, options.hosts, options.asked)
        scripts = {f"{size} hosts": folder / f"hosts-{size}.lua" for size in options.hosts}
    if options.only:
        proxies = {name: proxies[name] for name in options.only.split(",")}
    rows = {name: [] for name in proxies}
    with running(["nginx", "-c", str(config)], 0, app):
        for number in range(options.rounds):
            names = list(proxies)
            names = names[number % len(names) :] + names[: number % len(names)]
            for name in names:
                with running(proxies[name], 1, listen) as pid:
                    script = scripts.get(name)
                    load(listen, 1, options, script)
                    before = cpu(pid)
                    rate, p99, requests, bad = load(listen, options.seconds, options, script)
                    each = (cpu(pid) - before) / max(requests, 1) * 1e6
                rows[name].append((rate, p99, each))
                print(f"{number + 1:3} {name:12} {rate:9.0f}/s  p99 {p99:7.2f} ms  {each:6.1f} us CPU  {bad}", flush=True)
    table(rows, next(iter(rows)) if options.hosts else BASE)


def table(rows, base):
    median = statistics.median
    print(f"\n| proxy | requests/s | CPU us/request | p99 ms | requests/s to {base} | CPU to {base} |")
    print("|---|---|---|---|---|---|")
    for name, row in rows.items():
        rate, p99, each = (median(values) for values in zip(*row))
        pairs = list(zip(row, rows.get(base, [])))
        ratio = lambda at: f"{median(one[at] / other[at] for one, other in pairs):.3f}" if pairs else "-"
        print(f"| {name} | {rate:.0f} | {each:.1f} | {p99:.2f} | {ratio(0)} | {ratio(2)} |")


if __name__ == "__main__":
    main()
