# SPDX-License-Identifier: Apache-2.0
"""A machine that goes from one engine to another and back while it works: `--engine relay`, each half second."""

import re
import socket
import time

from harness import GUISE, free_port, test

# Each line: seconds of the guest's clocks, which must agree and never go back.
WATCH = "while :; do echo clocks $(cut -d' ' -f1 /proc/uptime) $(date +%s); sleep 0.2; done &"
COMPUTE = "(while :; do seq 1 3000 | gzip | gunzip | sha256sum; done | uniq -c | while read n s; do echo different $n; done) &"
ECHO = "nc -ll -p 7 -e cat & echo serving; read line; kill %1 %2 %3"
SECONDS = 12


def connect(t, port):
    while True:
        try:
            s = socket.create_connection(("127.0.0.1", port), timeout=10 * t.slow)
            s.sendall(b"x")
            if s.recv(1) == b"x":
                return s
        except OSError:
            pass
        t.check(time.monotonic() < t.deadline - 5, "the guest's echo server does not answer")
        time.sleep(0.2)


def echo_for(t, s, seconds):
    """One connection, and all that is sent comes back. Returns how many times."""
    end, n = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = f"{n:08}".encode() * 500
        s.sendall(data)
        got = b""
        while len(got) < len(data):
            piece = s.recv(65536)
            t.check(piece, "the connection ended")
            got += piece
        t.check(got == data, f"round {n}: other data came back")
        n += 1
    return n


def check_clocks(t, text, seconds):
    lines = [(float(up), int(date)) for up, date in re.findall(r"^clocks ([\d.]+) (\d+)\r?$", text, re.M)]
    t.check(len(lines) > 10, text)
    t.check(all(a[0] <= b[0] and a[1] <= b[1] for a, b in zip(lines, lines[1:])), f"a clock went back: {lines}")
    apart = [date - up for up, date in lines]
    t.check(max(apart) - min(apart) < 1.5, f"the clocks drift apart: {lines}")
    t.check(lines[-1][0] - lines[0][0] > seconds - 3, f"the guest's time stood still: {lines}")


@test("handover-under-load", timeout=120, on=GUISE)
def under_load(t):
    """Two CPUs that compute, an interrupt a packet, clocks and a TCP connection: nothing notices."""
    port = free_port()
    m = t.start_exec(f"{WATCH}\n{COMPUTE}\n{ECHO}", engine="relay", cpus=2, net="user", hostfwd=[(port, 7)], extra=["--stats", "--cpu", "x86-64-v2"], stdin=True)
    m.expect(r"serving\r?\n")
    with connect(t, port) as s:
        rounds = echo_for(t, s, SECONDS)
    m.send("done\n")
    t.equal(m.wait(), 0, "exit status")
    t.check(rounds > 20, f"only {rounds} rounds")
    t.check("different" not in m.text, m.text)
    check_clocks(t, m.text, SECONDS)
    handovers = re.search(r"^handovers +(\d+)$", m.errors, re.M)
    t.check(handovers and int(handovers[1]) >= 10, f"handovers: {handovers and handovers[1]}")
