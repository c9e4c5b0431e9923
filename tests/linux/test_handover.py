# SPDX-License-Identifier: Apache-2.0
"""A machine that goes from one engine to another and back while it works: `--engine relay`, each half second."""

import re
import socket
import time

from harness import GUISE, free_port, test

# Each line: seconds of the guest's clocks, which must agree and never go back; the date was read between the two of the other.
WATCH = "up() { cut -d' ' -f1 /proc/uptime; }; while :; do echo clocks $(up) $(date +%s) $(up); echo >>/tmp/ticks; sleep 0.2; done &"
COMPUTE = "(while :; do seq 1 3000 | gzip | gunzip | sha256sum; done | uniq -c | while read n s; do echo different $n; done) &"
ECHO = "nc -ll -p 7 -e cat & echo serving; read line; kill %1 %2 %3"
SECONDS = 12
# However slow the host is, as much as this must have happened.
LEAST_ROUNDS = 20
LEAST_TICKS = 12
CLOCK_SLACK = 0.02  # of hundredths
# A connection from the guest through the NAT to itself: what is said comes back, each line once and in order.
TALK = """nc -ll -p 7 -e cat &
until grep -q ':0007 .* 0A ' /proc/net/tcp*; do sleep 0.1; done
mkfifo /tmp/in; nc 10.0.2.2 {port} </tmp/in >/tmp/out & talker=$!
exec 3>/tmp/in; i=0; end=$(($(date +%s) + {seconds}))
while [ $(date +%s) -lt $end ] || [ $i -lt {rounds} ] || [ $(wc -l </tmp/ticks) -lt {ticks} ]; do echo line $i >&3; i=$((i + 1)); sleep 0.1; done
exec 3>&-; wait $talker
j=0; while read a b; do [ "$b" = $j ] || echo lost $j; j=$((j + 1)); done </tmp/out
echo said $i heard $j; kill %1 %2 %3"""


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


def echo_for(t, m, s, seconds):
    """One connection, and all that is sent comes back, while the guest's clocks tick."""
    end, n = time.monotonic() + seconds, 0
    while time.monotonic() < end or n < LEAST_ROUNDS or m.text.count("\nclocks ") <= LEAST_TICKS:
        data = f"{n:08}".encode() * 500
        s.sendall(data)
        got = b""
        while len(got) < len(data):
            piece = s.recv(65536)
            t.check(piece, "the connection ended")
            got += piece
        t.check(got == data, f"round {n}: other data came back")
        n += 1


def check_clocks(t, text, seconds):
    found = re.findall(r"^clocks ([\d.]+) (\d+) ([\d.]+)\r?$", text, re.M)
    lines = [(float(before), int(date), float(after)) for before, date, after in found]
    t.check(len(lines) >= LEAST_TICKS, text)
    t.check(all(a[2] <= b[0] and a[1] <= b[1] for a, b in zip(lines, lines[1:])), f"a clock went back: {lines}")
    # One distance between the clocks must explain all lines, a date being whole seconds.
    least = max(date - after for _, date, after in lines)
    most = min(date + 1 - before for before, date, _ in lines)
    t.check(least < most + CLOCK_SLACK, f"the clocks drift apart by {least - most:.2f} s: {lines}")
    t.check(lines[-1][0] - lines[0][0] > seconds - 3, f"the guest's time stood still: {lines}")


def check_handovers(t, m, least):
    handovers = re.search(r"^handovers +(\d+)$", m.errors, re.M)
    t.check(handovers and int(handovers[1]) >= least, f"handovers: {handovers and handovers[1]}")
    t.note(f"{handovers[1]} handovers")


@test("handover-under-load", timeout=120, on=GUISE)
def under_load(t):
    """Two CPUs that compute, an interrupt a packet, clocks and a TCP connection: nothing notices."""
    port = free_port()
    m = t.start_exec(f"{WATCH}\n{COMPUTE}\n{ECHO}", engine="relay", cpus=2, net="user", hostfwd=[(port, 7)], extra=["--stats", "--cpu", "x86-64-v2"], stdin=True)
    m.expect(r"serving\r?\n")
    with connect(t, port) as s:
        echo_for(t, m, s, SECONDS)
    m.send("done\n")
    t.equal(m.wait(), 0, "exit status")
    t.check("different" not in m.text, m.text)
    check_clocks(t, m.text, SECONDS)
    check_handovers(t, m, 10)


@test("handover-talking", timeout=90, on=GUISE)
def talking(t):
    """The same with nobody outside, for machines in machines: a hundred handovers there."""
    port = free_port()
    seconds, least = (75, 100) if t.options.nested else (SECONDS, 10)
    script = f"{WATCH}\n{COMPUTE}\n{TALK.format(port=port, seconds=seconds, rounds=LEAST_ROUNDS, ticks=LEAST_TICKS)}"
    m = t.start_exec(script, engine="relay", cpus=2, net="user", hostfwd=[(port, 7)], extra=["--stats", "--cpu", "x86-64-v2"])
    t.equal(m.wait(), 0, "exit status")
    said = re.search(r"^said (\d+) heard (\d+)\r?$", m.text, re.M)
    t.check(said and said[1] == said[2] and int(said[1]) >= LEAST_ROUNDS, f"the connection did not hold: {said and said[0]}")
    t.check("different" not in m.text and "lost" not in m.text, m.text)
    check_clocks(t, m.text, seconds)
    check_handovers(t, m, least)
