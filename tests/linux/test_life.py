# SPDX-License-Identifier: Apache-2.0
"""How a machine starts over and ends, and what its console does on the way."""

import hashlib
import os
import re
import signal
import socket
import struct
import time

import vmm
from harness import ALL, GUISE, free_port, test


@test("life-poweroff")
def life_poweroff(t):
    m = t.start_exec("true")
    t.equal(m.wait(), 0, "exit status")
    t.check("guise: exec status 0" in m.text, "the guest did not finish")


@test("life-reboot", timeout=90)
def life_reboot(t):
    """A guest's reboot starts it over in the same process; the disk keeps what was written."""
    disk = t.file("boots", bytes(1 << 20))
    m = t.start_exec(
        'n=$(head -c 1 /dev/vda | tr "\\0" 0); echo boot number $n; echo $((n + 1)) | dd of=/dev/vda conv=notrunc,fsync 2>/dev/null\n'
        "[ $n = 2 ] && exit 0; reboot; sleep 60",
        disks=[(disk, False)],
    )
    t.equal(m.wait(), 0, "exit status")
    t.equal(re.findall(r"boot number (\d)", m.text), ["0", "1", "2"], "boots")


@test("life-no-reboot")
def life_no_reboot(t):
    m = t.start_exec("reboot; sleep 60", no_reboot=True)
    t.equal(m.wait(), 0, "exit status")
    t.equal(m.text.count("guise: init"), 1, "boots")


def _reboots(t, append, script):
    m = t.start_exec(script, append=append)
    for _ in range(2):
        m.expect(r"guise: init\n")
        m.expect(r"guise: exec\n")
    m.expect(r"guise: init\n")


@test("life-panic-reboots", timeout=90)
def life_panic_reboots(t):
    _reboots(t, "panic=-1", "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger")


@test("life-triple-fault-reboots", timeout=90)
def life_triple_fault_reboots(t):
    """reboot=t: the kernel loads an empty IDT and faults."""
    _reboots(t, "reboot=t", "echo 1 > /proc/sys/kernel/sysrq; echo b > /proc/sysrq-trigger; sleep 60")


@test("life-keyboard-reset-reboots", timeout=90)
def life_keyboard_reset_reboots(t):
    _reboots(t, "reboot=k", "echo 1 > /proc/sys/kernel/sysrq; echo b > /proc/sysrq-trigger; sleep 60")


@test("life-panic-no-reboot")
def life_panic_no_reboot(t):
    m = t.start_exec("echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger", append="panic=-1", no_reboot=True)
    t.equal(m.wait(), 0, "exit status")
    t.check("sysrq triggered crash" in m.text and "Kernel Offset:" in m.text, "no panic on the console")


@test("life-sysrq-crash", on=GUISE)
def life_sysrq_crash(t):
    """A panicked guest stays where it is; the console has the whole report, and --timeout ends it."""
    m = t.start_exec("echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger", extra=["--timeout", "15"])
    m.expect(r"sysrq triggered crash")
    m.expect(r"Call Trace:(?s:.*)sysrq_handle_crash")
    m.expect(r"---\[ end Kernel panic")
    t.equal(m.wait(), 124, "exit status")


@test("life-timeout", on=GUISE)
def life_timeout(t):
    m = t.start_exec("sleep 1000", extra=["--timeout", "3"])
    t.equal(m.wait(), 124, "exit status")
    t.between(time.monotonic() - m.started, 2.9, 6, "seconds")


@test("life-timeout-busy", on=GUISE)
def life_timeout_busy(t):
    """Guest code that never leaves a loop is stopped too."""
    m = t.start_exec("i=0; while :; do i=$((i + 1)); done & while :; do :; done", extra=["--timeout", "5"])
    t.equal(m.wait(), 124, "exit status")
    t.between(time.monotonic() - m.started, 4.9, 9, "seconds")


@test("life-sigterm", on=GUISE)
def life_sigterm(t):
    """SIGTERM is the power button: the guest shuts down by itself."""
    m = t.start_exec("echo running; sleep 1000")
    m.expect(r"running\n")
    m.signal(signal.SIGTERM)
    m.expect(r"guise: power button\n")
    t.equal(m.wait(20 * t.slow), 0, "exit status")


@test("life-sigterm-twice", on=GUISE)
def life_sigterm_twice(t):
    """A guest that does not answer the power button is ended by the second request."""
    m = t.start_exec("killall acpid; echo deaf; sleep 1000")
    m.expect(r"deaf\n")
    m.signal(signal.SIGTERM)
    time.sleep(1)
    t.check(m.process.poll() is None, "the first SIGTERM ended the machine")
    m.signal(signal.SIGTERM)
    t.equal(m.wait(20 * t.slow), 128 + signal.SIGTERM, "exit status")


@test("life-sigint-from-shell", on=GUISE)
def life_sigint(t):
    """Without a terminal nothing makes Ctrl-C the guest's: it is the power button."""
    m = t.start_exec("echo running; sleep 1000")
    m.expect(r"running\n")
    m.signal(signal.SIGINT)
    m.expect(r"guise: power button\n")
    t.equal(m.wait(20 * t.slow), 0, "exit status")


@test("life-quit-keys", on=GUISE)
def life_quit_keys(t):
    m = t.start(terminal=True)
    m.expect(r"guise:~# ")
    m.send("\x01h")
    m.expect(r"(?i)ctrl-a")
    m.send("\x01x")
    t.equal(m.wait(10 * t.slow), 0, "exit status")
    t.check(m.terminal_restored(), "the terminal was not restored")


@test("life-ctrl-a-literal", on=GUISE)
def life_ctrl_a_literal(t):
    """Ctrl-a twice is one Ctrl-a for the guest."""
    m = t.start(terminal=True)
    m.expect(r"guise:~# ")
    m.send("cat > /tmp/keys\n")
    m.expect(r"keys\n")
    time.sleep(0.5)  # until cat has the terminal, in cooked mode
    m.send("\x01\x01end\n\x04")
    m.expect(r"guise:~# ")
    m.send("od -c /tmp/keys\n")
    m.expect(r"0000000 001 +e +n +d +\\n\n")
    m.send("poweroff\n")
    t.equal(m.wait(), 0, "exit status")


@test("life-terminal-restored-on-error", on=GUISE)
def life_terminal_restored_on_error(t):
    m = t.guise("run", "--kernel", t.path("absent"), terminal=True)
    t.equal(m.wait(10 * t.slow), 1, "exit status")
    t.check(m.terminal_restored(), "the terminal was not restored")


def _elf(code):
    """A static program of this machine code."""
    base = 0x400000
    header = struct.pack("<4sBBBB8xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 2, 62, 1, base + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, 120 + len(code), 120 + len(code), 4096)
    return header + segment + code


def _outb(port, value):
    """ioperm(port, 1, 1); outb(value, port); exit(0)"""
    return (
        b"\xbf" + struct.pack("<I", port)  # mov edi, port
        + b"\xbe\x01\0\0\0\xba\x01\0\0\0"  # mov esi, 1; mov edx, 1
        + b"\xb8\xad\0\0\0\x0f\x05"  # mov eax, SYS_ioperm; syscall
        + b"\xb0" + bytes([value])  # mov al, value
        + b"\x66\xba" + struct.pack("<H", port) + b"\xee"  # mov dx, port; out dx, al
        + b"\x31\xff\xb8\x3c\0\0\0\x0f\x05"  # xor edi, edi; mov eax, SYS_exit; syscall
    )


@test("life-exit-port")
def life_exit_port(t):
    program = {"outb": (0o755, _elf(_outb(0xF4, 5)))}
    m = t.start_exec("/outb; sleep 60", files=program, exit_port=0xF4)
    t.equal(m.wait(), (5 << 1) | 1, "exit status")


@test("life-exit-port-off")
def life_exit_port_off(t):
    """Without the option the port is nobody's."""
    t.equal(t.run("/outb; echo alive", files={"outb": (0o755, _elf(_outb(0xF4, 5)))}), "alive\n", "output")


@test("life-console-file", on=GUISE)
def life_console_file(t):
    log = t.path("console.log")
    m = t.start_exec("echo to the file", extra=["--console", f"file={log}"])
    t.equal(m.wait(), 0, "exit status")
    with open(log, encoding="utf-8", errors="replace") as f:
        text = f.read()
    t.check("to the file" in text and "guise: exec status 0" in text, "the file lacks the console's text")
    t.check("to the file" not in m.text, "the text went to standard output too")


@test("life-console-null", on=GUISE)
def life_console_null(t):
    m = t.start_exec("echo nowhere", extra=["--console", "null"])
    t.equal(m.wait(), 0, "exit status")
    t.equal(m.text, "", "standard output")


@test("life-stats", on=GUISE)
def life_stats(t):
    m = t.start_exec("true", extra=["--stats"])
    t.equal(m.wait(), 0, "exit status")
    found = re.findall(r"^(\w+) +(\d+)$", m.errors, re.M)
    got = {name: int(value) for name, value in found}
    t.equal(len(found), len(got), "counters, of which each has a name of its own")
    for name in ("blocks", "guest_bytes", "host_bytes", "misses", "light_syscall", "exits_halted", "tlb_flushes", "port_accesses"):
        t.check(got.get(name), f"{name}: {got.get(name)}")
    t.check("flushes" in got and "zones_dropped" in got, "flushes are not counted")
    apart = ("memory_guest_ram", "memory_page_tables", "memory_overhead")
    parts = {name: value for name, value in got.items() if name.startswith("memory_") and name not in apart}
    t.equal(sum(parts.values()), got["memory_overhead"], f"the sum of {parts}")
    t.check(parts["memory_code_cache"] >= got["host_bytes"] // 4 and got["memory_guest_ram"] > 32 << 20, f"memory: {got}")


@test("boot-tiny-cache", timeout=90, on=GUISE)
def boot_tiny_cache(t):
    """Thousands of times a part of the code cache is dropped while its code is in use, also by processes that go on in cells."""
    m = t.start_exec("for i in 1 2 3; do ls -lR /bin /etc | sort | sha256sum; done | uniq -c", engine="tiny", cpus=2, extra=["--stats"])
    t.equal(m.wait(), 0, "exit status")
    t.check(re.search(r"^ +3 [0-9a-f]{64}", m.text, re.M), m.text)
    dropped = re.search(r"^zones_dropped +(\d+)$", m.errors, re.M)
    t.check(dropped and int(dropped[1]) > 1000, f"zones dropped: {dropped and dropped[1]}")


@test("boot-no-block-refused", on=GUISE)
def boot_no_block_refused(t):
    """The translator lays out every block that a boot and some programs need: one that it cannot is interpreted, right but slow."""
    m = t.start_exec("for i in 1 2 3; do ls -lR /bin /etc | sort | gzip | sha256sum; done; awk 'BEGIN { for (i = 0; i < 1000; i++) s += sin(i); print s }'",
                     extra=["--stats"])
    t.equal(m.wait(), 0, "exit status")
    refused = re.search(r"\btoo_large\s+(\d+)", m.errors)
    t.check(refused, "no such counter on standard error")
    t.equal(refused[1], "0", "blocks that could not be laid out")


@test("life-input-from-pipe", on=ALL)
def life_input_from_pipe(t):
    """Standard input need not be a terminal: commands can be piped in; its end does not end the machine."""
    m = t.start(stdin=True)
    m.expect(r"guise:~# ")
    m.send("echo one$((1 + 1))\n")
    m.expect(r"one2\n")
    m.close_input()
    time.sleep(1)
    t.check(m.process.poll() is None, "the end of standard input ended the machine")


@test("life-output-flood", timeout=120)
def life_output_flood(t):
    """Three megabytes of console output arrive whole and in order."""
    output = t.run("seq 1 400000")
    t.equal(hashlib.sha256(output.encode()).hexdigest(), hashlib.sha256("".join(f"{i}\n" for i in range(1, 400001)).encode()).hexdigest(), "digest")


@test("life-slow-reader", timeout=90)
def life_slow_reader(t):
    """A reader of the console that sleeps holds nothing up for good and loses nothing."""
    m = t.start_exec("seq 1 100000; echo done")
    m.expect(r"guise: exec\n")
    m.reading.clear()
    time.sleep(5)
    t.check(m.process.poll() is None, "the machine did not wait for its reader")
    m.reading.set()
    t.equal(m.wait(), 0, "exit status")
    output = vmm.Exec.result(m.text)[1]
    t.equal(output.splitlines()[-1], "done", "last line")
    t.equal(len(output.splitlines()), 100001, "lines")


@test("life-paste", timeout=90)
def life_paste(t):
    """A person pastes a page of text: the serial port's flow control loses no byte."""
    m = t.start(terminal=True)
    m.expect(r"guise:~# ")
    m.send("stty -echo; cat > /tmp/pasted\n")
    time.sleep(1)
    text = "".join(f"line {i} of the pasted text, {hashlib.md5(str(i).encode()).hexdigest()}\n" for i in range(200))
    for line in text.splitlines(keepends=True):
        m.send(line)
        time.sleep(0.002)
    m.send("\x04")
    m.expect(r"guise:~# ")
    m.send("sha256sum /tmp/pasted\n")
    m.expect(hashlib.sha256(text.encode()).hexdigest())
    m.send("poweroff\n")
    t.equal(m.wait(), 0, "exit status")


@test("life-closed-output", on=GUISE)
def life_closed_output(t):
    """The reader of the console goes away (`guise run | head`): a defined end, no signal, no endless loop."""
    config = vmm.Config(engine=t.options.engine)
    vmm.Exec("seq 1 1000000; sleep 2", t.directory).apply(config)
    argv = vmm.guise_argv(t.options.guise, config)
    m = t.spawn(["bash", "-c", '"$@" < /dev/null | head -n 100; echo status ${PIPESTATUS[0]}', "bash", *argv])
    m.wait(10 * t.slow)
    t.equal(m.text.splitlines()[-1], "status 0", "exit status")
    t.equal(len(m.text.splitlines()), 101, "lines")


@test("life-no-leftovers", on=GUISE)
def life_no_leftovers(t):
    """Nothing of a machine stays behind: no process, no shared memory, no file in its directory."""
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    m = t.start_exec("true")
    t.equal(m.wait(), 0, "exit status")
    after = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    t.check(not {name for name in after - before if "guise" in name}, f"left in /dev/shm: {after - before}")
    with open("/proc/self/task/%d/children" % os.getpid(), encoding="ascii") as f:
        children = f.read().split()
    t.check(str(m.process.pid) not in children, "the process is still there")


OF_A_TEST = re.compile(r"guise-[a-z0-9-]+-[a-z0-9_]{8}")  # other tests run beside this one


def _guise_files():
    """What machines might leave where programs leave things."""
    places = ("/dev/shm", "/tmp", "/run", "/var/lock", os.path.expanduser("~"))
    return {os.path.join(p, name) for p in places if os.path.isdir(p) for name in os.listdir(p) if "guise" in name and not OF_A_TEST.fullmatch(name)}


def _alive_in_group(group):
    """Processes of a group that are more than an entry in their parent's table."""
    alive = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
                state, _, pgrp = f.read().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state not in "ZX":
            alive.append(int(pid))
    return alive


def _kill(t, m):
    m.signal(signal.SIGKILL)
    t.equal(m.wait(), -signal.SIGKILL, "exit status")
    gone = time.monotonic() + 5  # the cells of user code end by a signal of their own
    while _alive_in_group(m.process.pid) and time.monotonic() < gone:
        time.sleep(0.02)
    t.equal(_alive_in_group(m.process.pid), [], "processes of its group")


@test("life-killed", timeout=90, on=GUISE)
def life_killed(t):
    """SIGKILL in the middle of work leaves no process and nothing that hinders the next run with the same disk, port and socket."""
    port = free_port()
    disk, sock, log = t.file("disk", bytes(1 << 20)), t.path("gdb"), t.path("log")
    devices = {
        "disks": [(disk, False)],
        "net": "user",
        "hostfwd": [(port, 7)],
        "extra": ["--gdb", "unix:" + sock, "--trace", "exits:" + log],
    }
    before = _guise_files()
    for _ in range(2):
        m = t.start_exec("nc -ll -p 7 -e cat & echo running; while :; do dd if=/dev/urandom of=/dev/vda bs=64k count=16 conv=fsync 2>/dev/null; done", **devices)
        m.expect(r"running\n")
        time.sleep(1)
        _kill(t, m)
        t.equal(_guise_files() - before, set(), "files left")
        left = {name for name in os.listdir(t.directory) if not name.startswith("initrd-")}
        t.equal(left, {"disk", "gdb", "log"}, "files in its directory")
    m = t.start_exec("nc -ll -p 7 -e cat & echo running; sleep 3", **devices)
    m.expect(r"running\n")
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(sock)
    with socket.create_connection(("127.0.0.1", port), 5):
        pass
    t.equal(m.wait(), 0, "exit status")
    t.check(not os.path.exists(sock), "the socket is still there after a good end")


@test("life-killed-early", timeout=60, on=GUISE)
def life_killed_early(t):
    """SIGKILL while it starts, while the kernel boots, and while all user code runs in processes of its own: the next one starts all the same."""
    port, disk, sock = free_port(), t.file("disk", bytes(1 << 20)), t.path("gdb")
    devices = {"disks": [(disk, False)], "net": "user", "hostfwd": [(port, 7)], "engine": "direct", "cpus": 4}
    before = _guise_files()
    for seconds in (0.01, 0.05, 0.2, 0.6):
        m = t.start_exec("true", extra=["--gdb", "unix:" + sock], **devices)
        time.sleep(seconds)
        _kill(t, m)
    m = t.start_exec("for i in 1 2 3 4; do while :; do :; done & done; echo running; sleep 60", extra=["--gdb", "unix:" + sock], **devices)
    m.expect(r"running\n")
    time.sleep(1)
    t.check(len(_alive_in_group(m.process.pid)) > 1, "no process for user code")
    _kill(t, m)
    t.equal(_guise_files() - before, set(), "files left")
    m = t.start_exec("true", extra=["--gdb", "unix:" + sock], **devices)
    t.equal(m.wait(), 0, "exit status")


@test("life-option-help", timeout=20, on=GUISE)
def life_option_help(t):
    """`--OPTION help` lists the choices on standard output, whatever else is on the command line, and nothing is started."""
    for option, choices in (
        ("engine", ("auto", "bt", "kvm")),
        ("console", ("stdio", "file=PATH", "null")),
        ("net", ("user", "tap=", "hostfwd=", "none")),
        ("disk", ("readonly", "format=", "cache=writeback|writethrough|none|unsafe")),
        ("exit-port", ("0xf4",)),
    ):
        m = t.guise("run", "--kernel", "/absent", f"--{option}", "help")
        t.equal(m.wait(10 * t.slow), 0, f"exit status of --{option} help")
        t.equal(m.errors, "", "messages")
        for choice in choices:
            t.check(choice in m.text, f"--{option} help does not list {choice}")


@test("life-trace", on=GUISE)
def life_trace(t):
    """One line an event, in order of time, of each category and of no other; the file is whole at the end."""
    path = t.path("trace")
    m = t.start_exec("true", extra=["--trace", "all:" + path])
    t.equal(m.wait(), 0, "exit status")
    seen, last = set(), 0.0
    with open(path, encoding="ascii") as f:
        for line in f:
            found = re.fullmatch(r"(\d+\.\d{9}) cpu0 [0-9a-f]{16} (exits|interrupts|faults|mmio|pio|msr|blocks) \S.*\n", line)
            t.check(found, f"a line reads {line!r}")
            t.check(float(found[1]) >= last, f"time runs backwards at {line!r}")
            last = float(found[1])
            seen.add(found[2])
    expected = {"exits", "interrupts", "faults", "mmio", "pio", "msr"} | ({"blocks"} if t.options.engine != "interp" else set())
    t.equal(seen, expected, "categories")
    m = t.start_exec("true", extra=["--trace", "msr"])
    t.equal(m.wait(), 0, "exit status")
    t.check(re.search(r"cpu0 [0-9a-f]{16} msr write 0xc0000080 value 0x", m.errors), "no write of EFER on standard error")
    t.check(" faults " not in m.errors, "a category that was not asked for")


@test("life-group-signals", timeout=90, on=GUISE)
def life_group_signals(t):
    """A terminal sends its signals to every process of a group: those in which guest code runs directly leave them to the first."""
    m = t.start_exec("(while :; do :; done) & sleep 5; kill %1; echo fine", cpus=2)
    end = time.monotonic() + 6
    while time.monotonic() < end:
        for pid in set(_alive_in_group(m.process.pid)) - {m.process.pid}:
            for number in (signal.SIGWINCH, signal.SIGCONT, signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass
        time.sleep(0.05)
    t.equal(m.wait(), 0, "exit status")
    t.check("fine" in m.text, m.text)
