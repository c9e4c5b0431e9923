# SPDX-License-Identifier: Apache-2.0
"""Time in a guest against time outside: on a busy host, over a pause of the whole program, by every clock that a guest has, and at rest."""

import os
import re
import signal
import subprocess
import time

from harness import ALL, GUISE, test

# What a kernel says when its time was wrong or lost.
COMPLAINTS = re.compile(r"clocksource.*(unstable|skew|wd-)|soft lockup|hung_task|time jump|Marking.*unstable", re.IGNORECASE)
NO_COMPLAINTS = "if dmesg | grep -iE 'unstable|soft lockup|hung_task|blocked for more'; then exit 7; fi\n"


def busy(t):
    """Every core of the host has something else to do until the test ends."""
    for _ in range(os.cpu_count()):
        load = subprocess.Popen(["sh", "-c", "while :; do :; done"])
        t.cleanups.append(lambda p=load: (p.kill(), p.wait()))


def seen(m, word):
    m.expect(rf"{word}\n")
    return m.seen_at(rf"{word}\n")


@test("time-sleep-on-a-busy-host", timeout=60)
def time_sleep_on_a_busy_host(t):
    """A guest's second is a second of the host, and its clock has gone as far as the host's."""
    m = t.start_exec("cut -d' ' -f1 /proc/uptime; echo first; for i in 1 2 3 4 5; do sleep 1; echo slept $i; done; cut -d' ' -f1 /proc/uptime; echo last")
    m.expect(r"guise: exec\n")
    busy(t)
    begin = seen(m, "first")
    for i in range(1, 6):
        now = seen(m, f"slept {i}")
        t.between((now - begin) / i, 0.9, 1.3, f"seconds of the host for a second of the guest, after {i}")
    end = seen(m, "last")
    t.equal(m.wait(), 0, "exit status")
    uptime = [float(x) for x in re.findall(r"^(\d+\.\d\d)$", m.text, re.MULTILINE)]
    t.between((uptime[1] - uptime[0]) / (end - begin), 0.9, 1.1, "seconds of the guest for a second of the host")
    t.note(f"sleep 1 took {(now - begin) / 5:.3f} s of the host")


# Never back, and never at rest: the largest step is what the pause was. A second process would not do, since the scheduler charges the pause to
# whom it interrupted, and lets the other run for as long.
WATCH_CLOCK = r"""
now_() { read now rest </proc/uptime; a=${now%.*} b=${now#*.}; now=$((a * 100 + 1$b - 100)); }
now_; first=$now; last=$now; most=0
echo watching
while [ $((now - first)) -lt 4000 ] && [ $most -lt 1000 ]; do
	now_
	[ $now -ge $last ] || { echo "back from $last to $now"; exit 8; }
	[ $((now - last)) -le $most ] || most=$((now - last))
	last=$now
done
echo step $most
sleep 2
""" + NO_COMPLAINTS + "cat /sys/devices/system/clocksource/clocksource0/current_clocksource\n"


def _stopped(t, seconds, **kw):
    m = t.start_exec(WATCH_CLOCK, **kw)
    m.expect(r"watching\n")
    time.sleep(1)
    m.signal(signal.SIGSTOP)
    time.sleep(seconds)
    m.signal(signal.SIGCONT)
    step = int(m.expect(r"step (\d+)\n")[1]) / 100
    m.expect(r"tsc\n")
    t.equal(m.wait(), 0, "exit status")
    t.check("exec status 0" in m.text, "the guest's clock ran backwards or its kernel complained")
    t.check(not COMPLAINTS.search(m.text), "the kernel complained about its time")
    if "rcu: INFO" in m.text:  # a CPU may have been stopped within its tick, behind the look at the flag
        t.note("an RCU stall was reported")
    t.between(step, seconds * 0.9, seconds * 1.1 + 1, "seconds by which the guest's clock went on")


@test("time-stopped-and-continued", timeout=90, on=GUISE)
def time_stopped_and_continued(t):
    """Stopped for longer than a kernel's watchdogs wait, the guest finds that time has passed, and nothing wrong with it."""
    _stopped(t, 25)


@test("time-stopped-and-continued-smp", timeout=90, on=GUISE)
def time_stopped_and_continued_smp(t):
    _stopped(t, 25, cpus=2)


CLOCKS = """
cd /sys/devices/system/clocksource/clocksource0
available=$(cat available_clocksource)
echo available $available
for c in $available; do
	echo $c >current_clocksource || exit 9
	sleep 2
	echo now $(cat current_clocksource) $(date +%s) $(cat /sys/class/rtc/rtc0/since_epoch) $(cut -d' ' -f1 /proc/uptime)
done
""" + NO_COMPLAINTS


@test("time-clocks-agree", timeout=60, on=ALL)
def time_clocks_agree(t):
    """The date by each of the kernel's clocks, the battery's clock and the host agree to a second; so do their paces."""
    m = t.start_exec(CLOCKS)
    names = m.expect(r"available (.*)\n")[1].split()
    if t.options.vmm == "guise":
        t.equal(set(names), {"tsc", "kvm-clock", "acpi_pm"}, "clocks")
    first = None
    for name in names:
        found = m.expect(r"now (\S+) (\d+) (\d+) (\d+\.\d+)\n")
        host, monotonic = time.time(), time.monotonic()
        t.equal(found[1], name, "clock in use")
        date, rtc, uptime = int(found[2]), int(found[3]), float(found[4])
        t.between(date - host, -2.2, 1.2, f"{name}: date against the host's clock")  # what reads as n lies between n and n + 1
        t.between(rtc - host, -2.2, 1.2, f"{name}: battery clock against the host's clock")
        t.between(date - rtc, -1, 1, f"{name}: date against the battery clock")
        first = first or (monotonic, uptime)
    if len(names) > 1:
        t.between((uptime - first[1]) / (monotonic - first[0]), 0.9, 1.1, "seconds of the guest for a second of the host")
    t.equal(m.wait(), 0, "exit status")
    t.check("exec status 0" in m.text, "the kernel complained about its clocks")


def _cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@test("time-idle", timeout=60, on=GUISE)
def time_idle(t):
    """A guest that waits at its shell costs next to nothing."""
    for cpus in (1, 2):
        m = t.start(terminal=True, cpus=cpus)
        m.expect(r"guise:~# ")
        time.sleep(3)
        before = _cpu_seconds(m.process.pid)
        time.sleep(10)
        used = (_cpu_seconds(m.process.pid) - before) / 10
        m.send("poweroff\n")
        t.equal(m.wait(), 0, "exit status")
        t.note(f"{cpus} CPU(s): {100 * used:.1f} % of a core")
        t.between(used, 0, 0.02, "share of a core")
