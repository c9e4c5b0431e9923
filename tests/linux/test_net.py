# SPDX-License-Identifier: Apache-2.0
"""The network through the built-in NAT. Servers are on this host's loopback address only, which the guest reaches as 10.0.2.2."""

import hashlib
import http.client
import http.server
import os
import re
import socket
import struct
import threading
import time

from harness import free_port, test

HOST = "10.0.2.2"


class _Server:
    """An HTTP server with one file; remembers what was posted."""

    def __init__(self, t, content=b""):
        posted = self.posted = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # pylint: disable=invalid-name
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_POST(self):  # pylint: disable=invalid-name
                posted.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):  # pylint: disable=arguments-differ
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        t.cleanups += [self.server.server_close, self.server.shutdown]


@test("net-dhcp")
def net_dhcp(t):
    output = t.run("sleep 1.5; ip a show dev eth0; ip route; cat /etc/resolv.conf", net="user")
    t.check(re.search(r"inet 10\.0\.2\.15/24 ", output), "no address:\n" + output)
    t.check("default via 10.0.2.2 dev eth0" in output, "no default route:\n" + output)
    t.check("nameserver 10.0.2.3" in output, "no name server:\n" + output)
    t.check("<BROADCAST,MULTICAST,UP,LOWER_UP>" in output, "no link:\n" + output)


@test("net-none")
def net_none(t):
    t.equal(t.run("ls /sys/class/net"), "lo\n", "interfaces")


@test("net-ping-gateway")
def net_ping_gateway(t):
    t.check("3 packets received" in t.run(f"ping -c 3 -i 0.2 {HOST}", net="user"), "no replies")


@test("net-download", timeout=90)
def net_download(t):
    content = os.urandom(16 << 20)
    server = _Server(t, content)
    output = t.run(f"wget -q -O - http://{HOST}:{server.port}/ | sha256sum", net="user")
    t.equal(output, hashlib.sha256(content).hexdigest() + "  -\n", "digest of 16 MiB")


@test("net-upload", timeout=90)
def net_upload(t):
    server = _Server(t)
    output = t.run(f"seq 1 500000 > /tmp/f; wget -q -O - --post-file /tmp/f http://{HOST}:{server.port}/ && sha256sum < /tmp/f", net="user")
    t.equal(len(server.posted), 1, "requests")
    t.equal(output, hashlib.sha256(server.posted[0]).hexdigest() + "  -\n", "digest")


@test("net-parallel", timeout=120)
def net_parallel(t):
    content = os.urandom(2 << 20)
    server = _Server(t, content)
    output = t.run(f"for i in 1 2 3 4 5 6 7 8; do (wget -q -O - http://{HOST}:{server.port}/$i | md5sum) & done; wait", net="user")
    t.equal(output, (hashlib.md5(content).hexdigest() + "  -\n") * 8, "digests")


@test("net-refused")
def net_refused(t):
    """A port where nobody listens is refused at once, not swallowed."""
    output = t.run(f"nc -w 10 {HOST} {free_port()} < /dev/null 2>&1; echo $?", net="user")
    t.check("refused" in output and output.endswith("\n1\n"), output)


def _serve_tftp(s, content):
    """One read request, from the port that took it."""
    _, peer = s.recvfrom(2000)
    for block in range(len(content) // 512 + 1):
        packet = struct.pack(">HH", 3, block + 1 & 0xFFFF) + content[block * 512 : block * 512 + 512]
        acknowledged = False
        while not acknowledged:
            s.sendto(packet, peer)
            answer, peer = s.recvfrom(2000)
            acknowledged = answer[:4] == struct.pack(">HH", 4, block + 1 & 0xFFFF)


@test("net-udp")
def net_udp(t):
    content = os.urandom(100000)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        s.settimeout(30 * t.slow)
        thread = threading.Thread(target=_serve_tftp, args=(s, content), daemon=True)
        thread.start()
        output = t.run(f"tftp -g -r f -l /tmp/f {HOST} {s.getsockname()[1]} && sha256sum < /tmp/f", net="user")
        thread.join(1)
    t.equal(output, hashlib.sha256(content).hexdigest() + "  -\n", "digest of 100,000 bytes by TFTP")


def _fetch(t, port, path):
    """GET through the forward; the guest's server may not listen yet."""
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=max(1, t.deadline - time.monotonic()))
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            if response.status == 200:
                return body
        except (OSError, http.client.HTTPException):
            pass
        if time.monotonic() > t.deadline - 2:
            t.check(False, "the forwarded port does not answer")
        time.sleep(0.2)


@test("net-hostfwd", timeout=90)
def net_hostfwd(t):
    """From the host into the guest's web server, several megabytes, repeatedly."""
    port = free_port()
    m = t.start_exec(
        "mkdir /tmp/www; cd /tmp/www; seq 1 300000 > f; httpd -p 80 -h /tmp/www; echo serving; sleep 1000",
        net="user",
        hostfwd=[(port, 80)],
    )
    m.expect(r"serving\n")
    wanted = "".join(f"{i}\n" for i in range(1, 300001)).encode()
    for _ in range(3):
        t.check(_fetch(t, port, "/f") == wanted, "wrong content")


@test("net-link-flood", timeout=120)
def net_link_flood(t):
    """Packets in both directions at once: the queues recover."""
    output = t.run(
        f"(ping -c 1500 -i 0.001 -q -s 1400 {HOST} > /tmp/a) & (ping -c 1500 -i 0.001 -q -s 20 {HOST} > /tmp/b) & wait; cat /tmp/a /tmp/b; ping -c 2 -q {HOST}",
        net="user",
    )
    received = [int(n) for n in re.findall(r"(\d+) packets received", output)]
    t.check(len(received) == 3 and received[0] > 1400 and received[1] > 1400 and received[2] == 2, f"replies: {received}")
