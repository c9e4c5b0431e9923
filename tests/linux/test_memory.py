# SPDX-License-Identifier: Apache-2.0
"""The balloon: memory that the guest does not use goes back to the host, and what it uses stays as it is."""

import os
import re
import time

from harness import GUISE, test

MIB = 1 << 20

# 24 files of 16 MiB with the same random content, of which the first is kept elsewhere; what they hold, as one line.
FILL = """
mkdir -p /keep /t
[ -s /keep/f ] || { mount -t tmpfs -o size=90% t /t; mount -t tmpfs k /keep; head -c 16777216 /dev/urandom > /keep/f; }
fill() { i=0; while [ $i -lt 24 ]; do cat /keep/f > /t/$i || return; i=$((i + 1)); done; }
sums() { sha256sum /keep/f /t/* | cut -d' ' -f1 | sort | uniq -c; }
"""
FILLED = r"^\s*25 [0-9a-f]{64}$"


def held(m):
    """MiB of the guest's RAM that the host holds memory for."""
    directory = f"/proc/{m.process.pid}/fd"
    for fd in os.listdir(directory):
        if "guise-ram" in os.readlink(f"{directory}/{fd}"):
            return os.stat(f"{directory}/{fd}").st_blocks * 512 // MIB
    raise AssertionError("the machine has no RAM")


def falls_below(t, m, limit, seconds):
    end = time.monotonic() + seconds * t.slow
    while held(m) >= limit and time.monotonic() < end:
        time.sleep(0.1)
    t.check(held(m) < limit, f"the host still holds {held(m)} MiB, not below {limit}")


def counters(m):
    return {name: int(value) for name, value in re.findall(r"^(\w+) +(\d+)$", m.errors, re.M)}


def _comes_back(t, **kw):
    script = FILL + "fill; sums; echo filled; read go; rm /t/*; echo freed; read go; fill; sums; echo again; rm /t/*"
    m = t.start_exec(script, memory="1G", stdin=True, extra=["--stats", "--balloon", "on"], **kw)
    m.expect(r"filled\n")
    full = held(m)
    t.check(full > 400, f"a full guest has {full} MiB")
    m.send("go\n")
    m.expect(r"freed\n")
    begin = time.monotonic()
    falls_below(t, m, full - 300, 20)
    t.note(f"{full} MiB, {held(m)} MiB {time.monotonic() - begin:.1f} s after 384 MiB were freed")
    m.send("go\n")
    m.expect(r"again\n")
    t.equal(m.wait(), 0, "exit status")
    sums = re.findall(FILLED, m.text, re.M)
    t.check(len(sums) == 2 and sums[0] == sums[1], f"contents: {sums}")
    return counters(m)


@test("memory-comes-back", timeout=120, on=GUISE)
def memory_comes_back(t):
    got = _comes_back(t)
    t.check(got["balloon_bytes_reported"] >= got["balloon_bytes_returned"] >= 300 * MIB, f"{got}")


@test("memory-comes-back-smp", timeout=120, on=GUISE)
def memory_comes_back_smp(t):
    """With two CPUs, and with zeroes expected in what was given back."""
    _comes_back(t, cpus=2, append="init_on_free=1")


@test("memory-target", timeout=120, on=GUISE)
def memory_target(t):
    """The guest gives up what it is asked for, and takes it back rather than kill a process."""
    script = ("i=0; while [ $(awk '/MemFree/ { print $2 }' /proc/meminfo) -gt 250000 ] && [ $i -lt 200 ]; do usleep 100000; i=$((i + 1)); done\n"
              "free; sleep 2; mkdir /t; mount -t tmpfs -o size=90% t /t; dd if=/dev/zero of=/t/f bs=1M count=300 2>/dev/null; ls -l /t/f; dmesg | grep -i 'killed'; true")
    m = t.start_exec(script, memory="512M", extra=["--stats", "--balloon", "target=256M,stats=1"])
    t.equal(m.wait(), 0, "exit status")
    got = counters(m)
    t.check(got["balloon_pages_inflated"] >= 256 * MIB // 4096, f"inflated: {got['balloon_pages_inflated']} pages")
    t.check(got["balloon_pages_deflated"] > 0, "no page left the balloon")
    t.check(str(300 * MIB) in m.text and "illed" not in m.text, "the guest ran out of memory")
    t.between(got["guest_bytes_total"] // MIB, 400, 512, "MiB of memory that the guest tells of")


@test("memory-no-balloon", on=GUISE)
def memory_no_balloon(t):
    """There is none unless it is asked for."""
    output = t.run("cat /sys/bus/virtio/devices/*/device; ls /sys/bus/virtio/drivers")
    t.check("0x0005" not in output, f"there is a balloon: {output}")


OVERHEAD_MAX = 24 * MIB


def _idles(t, cpus):
    """An idle machine gives back what it has made to start, and goes on with the same results. Twice, as what is used again shall stay."""
    script = "for i in 1 2; do sleep 5; ls -lR /bin /etc | md5sum; awk 'BEGIN { for (i = 0; i < 100000; i++) s += i % 7; print \"sum\", s }'; done; echo rests"
    m = t.start_exec(script + "; sleep 60", memory="128M", cpus=cpus, extra=["--stats", "--timeout", str(int(25 * t.slow))])
    m.expect(r"rests\n")
    t.equal(m.wait(), 124, "exit status")
    sums = re.findall(r"^([0-9a-f]{32}) ", m.text, re.M)
    t.check(len(sums) == 2 and sums[0] == sums[1], f"contents: {sums}")
    t.equal(re.findall(r"^sum (\d+)$", m.text, re.M), ["299995"] * 2, "sums")
    got = counters(m)
    t.check(got["trims"] >= 1, f"{got}")
    t.note(f"{got['memory_overhead'] / MIB:.1f} MiB beside the guest's {got['memory_guest_ram'] / MIB:.0f}, {got['trims']} times trimmed")
    return got


@test("memory-idle", timeout=120, on=GUISE)
def memory_idle(t):
    got = _idles(t, 1)
    t.check(got["memory_overhead"] <= OVERHEAD_MAX, f"{got}")


@test("memory-idle-smp", timeout=120, on=GUISE)
def memory_idle_smp(t):
    _idles(t, 2)


@test("memory-many-processes", timeout=180, on=GUISE)
def memory_many_processes(t):
    """Each program lies elsewhere in its addresses; the tables of those that are gone do not stay: each of eight address spaces keeps 4 MiB of empty
    ones at most."""
    m = t.start_exec("i=0; while [ $i -lt 2000 ]; do /bin/busybox true; i=$((i + 1)); done; echo ran $i", memory="128M", extra=["--stats"])
    t.equal(m.wait(), 0, "exit status")
    t.check("ran 2000" in m.text, m.text)
    got = counters(m)
    t.check(got["memory_shadow_tables"] <= 40 * MIB, f"{got}")


@test("memory-fresh-pages-direct", timeout=120, on=GUISE)
def memory_fresh_pages_direct(t):
    """A page fault takes a process out of its cell once, not again when the page is there."""
    script = ("faults() { sed -n 's/^pgfault //p' /proc/vmstat; }; a=$(faults); awk 'BEGIN { s = \"x\"; for (i = 0; i < 25; i++) s = s s; print length(s) }';"
              " echo faults $(($(faults) - a))")
    m = t.start_exec(script, memory="512M", engine="direct", extra=["--stats"])
    t.equal(m.wait(), 0, "exit status")
    t.check("33554432" in m.text, m.text)
    faults, runs = int(re.search(r"faults (\d+)", m.text)[1]), counters(m)["direct_runs"]
    t.check(faults > 10000, f"{faults} page faults are too few to tell")
    t.check(runs < faults * 3 // 2, f"{runs} ways into cells for {faults} page faults")
