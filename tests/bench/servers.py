"""The servers that `proxy` compares: nginx, HAProxy and the sidecar before one nginx origin.

What would make a difference and is no property of the server is alike: two workers, no limit of the requests of a
connection, idle connections to the origin for all that the load has in flight, one ECDSA certificate, TLS 1.3 (the
sidecar prefers it, the others allow nothing else), the cipher that the client prefers, tickets to resume sessions with.
All else is as each comes: also how many streams of an HTTP/2 connection are in flight (nginx 128, HAProxy 100, the
sidecar 32 of 128; WP_JWT_SIDECAR_SERVER_MAX_EXCHANGES_PER_CONNECTION changes that).
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = {"1k": 1024, "1m": 1 << 20}

ORIGIN = """
daemon off; worker_processes 2; pid {dir}/origin.pid; error_log {dir}/origin.log warn; {user}
events {{ worker_connections 8192; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; keepalive_timeout 300s;
  client_body_temp_path {dir}/o1; proxy_temp_path {dir}/o2; fastcgi_temp_path {dir}/o3; uwsgi_temp_path {dir}/o4; scgi_temp_path {dir}/o5;
  server {{ listen 127.0.0.1:{origin} backlog=8192; root {dir}/www; }}
}}
"""

# keepalive_requests holds for HTTP/2, too (nginx 1.19.7 and later).
NGINX = """
daemon off; worker_processes 2; pid {dir}/nginx.pid; error_log {dir}/nginx.log warn; {user}
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 300s;
  client_body_temp_path {dir}/n1; proxy_temp_path {dir}/n2; fastcgi_temp_path {dir}/n3; uwsgi_temp_path {dir}/n4; scgi_temp_path {dir}/n5;
  upstream origin {{ server 127.0.0.1:{origin}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{plain} backlog=8192;
    listen 127.0.0.1:{tls} backlog=8192 ssl http2;
    ssl_protocols TLSv1.3; ssl_certificate {dir}/site.pem; ssl_certificate_key {dir}/site.pem;
    location / {{
      proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $http_host;
    }}
  }}
}}
"""

# HAProxy has no limit of the requests of a connection but tune.h2.fe.max-total-streams (3.0 and later), which is not set.
HAPROXY = """
global
  nbthread 2
  maxconn 8192
  ssl-default-bind-options ssl-min-ver TLSv1.3 prefer-client-ciphers
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout http-keep-alive 300s
frontend public
  bind 127.0.0.1:{plain} backlog 8192
  bind 127.0.0.1:{tls} backlog 8192 ssl crt {dir}/site.pem alpn h2,http/1.1
  option forwardfor
  http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
  http-request set-header X-Forwarded-Host %[req.hdr(Host)]
  default_backend origin
backend origin
  http-reuse always
  server origin 127.0.0.1:{origin} pool-max-conn 1024
"""

SECRETS = {
    "WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL": "mysql://nobody:nothing@127.0.0.1:1/none",
    "WP_JWT_SIDECAR_WORDPRESS_TABLE_PREFIX": "wp_",
    "WP_JWT_SIDECAR_WORDPRESS_AUTH_KEY": "k",
    "WP_JWT_SIDECAR_WORDPRESS_AUTH_SALT": "s",
    "WP_JWT_SIDECAR_JWT_SECRET": "benchmark-secret-benchmark-secret",
}


class Server:
    def __init__(self, process, plain, tls):
        self.process, self.plain, self.tls = process, plain, tls

    def resident(self):
        """Resident memory of the process and its children, in MiB: private pages and their share of shared ones."""
        total = 0
        for one in descendants(self.process.pid):
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total / 1024

    def processor(self):
        """What the process and its children have taken of the processor, user and system, in seconds."""
        ticks = 0
        for one in descendants(self.process.pid):
            # proc_pid_stat(5): fields 14 and 15; the name before them may hold blanks.
            ticks += sum(map(int, Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(binary):
    """Starts the origin and the three before it; all end with the block."""
    directory = Path(tempfile.mkdtemp(prefix="bench-proxy."))
    processes = []

    def start(command, **more):
        processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, **more))
        return processes[-1]

    def configuration(name, template, **values):
        path = directory / name
        user = "user root;" if os.getuid() == 0 else ""
        path.write_text(template.format(dir=directory, user=user, **values))
        return str(path)

    try:
        directory.chmod(0o755)
        (directory / "www").mkdir()
        for name, size in SIZES.items():
            (directory / "www" / name).write_bytes(os.urandom(size))
        certificate = directory / "site.pem"
        make_certificate(certificate)
        origin = free_port()
        start(["/usr/sbin/nginx", "-c", configuration("origin.conf", ORIGIN, origin=origin)])
        wait_for(origin)
        ports = {name: {"plain": free_port(), "tls": free_port()} for name in ("nginx", "haproxy", "sidecar")}
        nginx = configuration("nginx.conf", NGINX, origin=origin, **ports["nginx"])
        haproxy = configuration("haproxy.cfg", HAPROXY, origin=origin, **ports["haproxy"])
        commands = {
            "nginx": ["/usr/sbin/nginx", "-c", nginx],
            "haproxy": ["/usr/sbin/haproxy", "-q", "-f", haproxy],
            "sidecar": sidecar(binary, origin, certificate, **ports["sidecar"]),
        }
        servers = {name: Server(start(command, env=os.environ | SECRETS), **ports[name]) for name, command in commands.items()}
        for server in servers.values():
            wait_for(server.plain)
            wait_for(server.tls)
        yield servers
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(directory, ignore_errors=True)


def sidecar(binary, origin, certificate, plain, tls):
    command = [binary, "serve", "--listen", f"127.0.0.1:{plain}", "--upstream", f"http://127.0.0.1:{origin}", "--server-workers", "2"]
    command += ["--tls-listen", f"127.0.0.1:{tls}", "--tls-certificates", f"{certificate}:{certificate}"]
    command += ["--upstream-keepalive-max-idle", "1024", "--log-level", "error"]
    # Versions without this limit, which docs/architecture.md compares, closed no connection.
    limit = "--server-max-requests-per-connection"
    if limit in subprocess.run([binary, "serve", "--help"], check=True, capture_output=True, text=True).stdout:
        command += [limit, "0"]
    return command


def make_certificate(path):
    """An ECDSA certificate for localhost, and its key behind it, as all three read them from one file."""
    key = path.with_suffix(".key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", path]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    path.write_bytes(path.read_bytes() + key.read_bytes())


def descendants(pid):
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += descendants(int(child))
    return found


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(port):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing listens on {port}; see above")
