# SPDX-License-Identifier: Apache-2.0
"""GDB, as Debian has it, on a booting and a running kernel, and what a debugger's connection may do to the machine."""

import re
import shutil
import signal
import socket
import struct
import time

from harness import GUISE, Skip, free_port, test

# Where to look, told by the guest; then a system call each time a line comes in.
SCRIPT = r"""
grep -E ' (__x64_sys_sethostname|init_uts_ns|_text|linux_banner)$' /proc/kallsyms | while read a t n; do echo "symbol $n 0x$a"; done
echo ready
while read word rest; do
	case $word in
	name) hostname $rest; echo "name is $(hostname)" ;;
	tell) echo "name is $(hostname)" ;;
	log) dmesg | grep -q "$rest" && echo "log has it" ;;
	spin) echo spinning; while [ ! -e /tmp/never ]; do :; done & ;;
	end) break ;;
	esac
done
echo finished
"""
NODENAME = 65  # in struct new_utsname, which init_uts_ns begins with


class Gdb:
    """One GDB, command by command."""

    def __init__(self, t, where):
        program = shutil.which("gdb")
        if not program:
            raise Skip("gdb is not installed")
        self.process = t.spawn(["sh", "-c", f"exec {program} -nx -quiet 2>&1"], stdin=True)
        self.count = 0
        self.where = where
        for command in ("set pagination off", "set confirm off", "set width 0", "set architecture i386:x86-64", "set remotetimeout 20"):
            self.run(command)

    def start(self, command):
        self.count += 1
        self.process.send(f"{command}\necho end-of-{self.count}\\n\n")

    def finish(self):
        begin = self.process.mark
        match = self.process.expect(f"end-of-{self.count}\n")
        return self.process.text[begin : match.start()]

    def run(self, command):
        self.start(command)
        return self.finish()

    def connect(self):
        return self.run(f"target remote {self.where}")

    def value(self, expression):
        return int(re.search(r"= (0x[0-9a-f]+)", self.run(f"p/x {expression}")).group(1), 16)

    def interrupt(self):
        time.sleep(0.5)
        self.process.signal(signal.SIGINT)

    def quit(self, t):
        self.process.send("quit\n")
        t.equal(self.process.wait(), 0, "gdb's exit status")


def debugged(t, script=SCRIPT, **kw):
    """A machine with this script, and where GDB finds it."""
    if not shutil.which("gdb"):
        raise Skip("gdb is not installed")
    port = free_port()
    qemu = t.options.vmm == "qemu"
    extra = ["-gdb", f"tcp:127.0.0.1:{port}"] if qemu else ["--gdb", f"tcp:{port}"]
    paused = ["-S" if qemu else "--paused"] if kw.pop("paused", False) else []
    trace = ["--trace", kw.pop("trace")] if "trace" in kw else []
    m = t.start_exec(script, stdin=True, extra=extra + paused + trace, **kw)
    return m, f"127.0.0.1:{port}"


def symbols(m):
    m.expect(r"ready\n")
    return {name: int(value, 16) for name, value in re.findall(r"symbol (\w+) (0x[0-9a-f]+)", m.text)}


def end(t, m):
    m.send("end\n")
    m.expect(r"finished\n")
    t.equal(m.wait(), 0, "exit status")


@test("gdb-breakpoint", timeout=90)
def gdb_breakpoint(t):
    """A breakpoint in the kernel, steps, registers, memory, the rest of the call; and the guest's code unchanged meanwhile."""
    m, where = debugged(t)
    address = symbols(m)
    gdb = Gdb(t, where)
    gdb.connect()
    entry = address["__x64_sys_sethostname"]
    code = gdb.run(f"x/8xb {entry:#x}")
    gdb.run(f"break *{entry:#x}")
    gdb.start("continue")
    m.send("name one\n")
    t.check("Breakpoint 1," in gdb.finish(), "the breakpoint was not met")
    t.equal(gdb.value("$rip"), entry, "rip")
    t.equal(gdb.value("$cs"), 0x10, "cs")
    t.equal(gdb.value("*(long *)($rdi + 104)"), 3, "the length that the system call was given")
    t.equal(gdb.run(f"x/8xb {entry:#x}"), code, "code at the breakpoint")
    for _ in range(5):
        before = gdb.value("$rip")
        gdb.run("stepi")
        t.check(gdb.value("$rip") != before, "a step did not move")
    gdb.start("continue")
    m.expect("name is one\n")
    gdb.interrupt()
    t.check("SIGINT" in gdb.finish(), "no interrupt")
    gdb.run("delete")
    gdb.run("detach")
    gdb.quit(t)
    m.send("name two\n")
    m.expect("name is two\n")
    end(t, m)


@test("gdb-watchpoint", timeout=90, on=GUISE)
def gdb_watchpoint(t):
    """One byte in the middle of a structure is watched: for writes, reads, and both."""
    m, where = debugged(t)
    place = f"*(char *){symbols(m)['init_uts_ns'] + NODENAME:#x}"
    m.send("name alpha\n")
    m.expect("name is alpha\n")
    gdb = Gdb(t, where)
    gdb.connect()
    gdb.run(f"watch {place}")
    gdb.start("continue")
    m.send("name beta\n")
    text = gdb.finish()
    t.check("Hardware watchpoint 1" in text and "97 'a'" in text and "98 'b'" in text, f"no write was met:\n{text}")
    gdb.run("delete")
    gdb.run(f"rwatch {place}")
    gdb.start("continue")
    t.check("Value = 98 'b'" in gdb.finish(), "no read was met")
    gdb.run("delete")
    gdb.run(f"awatch {place}")
    gdb.start("continue")
    m.expect("name is beta\n")
    m.send("name gamma\n")
    t.check("Hardware access (read/write) watchpoint" in gdb.finish(), "no access was met")
    gdb.run("delete")
    gdb.run("detach")
    gdb.quit(t)
    m.expect("name is gamma\n")
    end(t, m)


@test("gdb-memory", timeout=90)
def gdb_memory(t):
    """Memory is read and written as the page tables map it; what is not mapped is an error; patched code is run."""
    m, where = debugged(t)
    address = symbols(m)
    gdb = Gdb(t, where)
    gdb.connect()
    t.check("Linux version" in gdb.run(f"x/s {address['linux_banner']:#x}"), "no banner")
    t.check("Cannot access memory" in gdb.run("x/8xb 0xffff700000000000"), "memory where none is")
    entry = address["__x64_sys_sethostname"]
    m.send("name warm\n")
    gdb.start("continue")
    m.expect("name is warm\n")
    gdb.interrupt()
    gdb.finish()
    old = gdb.value(f"*(unsigned long *){entry:#x}")
    # mov $-EPERM, %eax; ret
    gdb.run(f"set *(unsigned long *){entry:#x} = 0xc3ffffffffb8")
    gdb.start("continue")
    m.send("name cold\n")
    m.expect("name is warm\n")
    gdb.interrupt()
    gdb.finish()
    gdb.run(f"set *(unsigned long *){entry:#x} = {old:#x}")
    t.equal(gdb.value(f"*(unsigned long *){entry:#x}"), old, "code put back")
    gdb.run("detach")
    m.send("name cool\n")
    m.expect("name is cool\n")
    end(t, m)


CR4_LA57 = 1 << 12


def quad(gdb, address):
    return int(re.search(r":\s+(0x[0-9a-f]+)", gdb.run(f"x/1xg {address:#x}")).group(1), 16)


def walk(gdb, va):
    """The physical address of a kernel's virtual one, with physical mode on: its pages may be of any size."""
    table = gdb.value("$cr3") & 0xFFFFFFFFFF000
    five_levels = gdb.value("$cr4") & CR4_LA57  # QEMU's CPU has them
    for shift in (48, 39, 30, 21, 12) if five_levels else (39, 30, 21, 12):
        entry = quad(gdb, table + (va >> shift & 511) * 8)
        table = entry & 0xFFFFFFFFFF000
        if entry & 0x80 or shift == 12:
            return (table & -(1 << shift)) | (va & ((1 << shift) - 1))


@test("gdb-physical", timeout=90)
def gdb_physical(t):
    """By QEMU's packet addresses become physical: page tables can be walked, and what is written is what the kernel reads."""
    m, where = debugged(t)
    name = symbols(m)["init_uts_ns"] + NODENAME
    m.send("name cold\n")
    m.expect("name is cold\n")
    gdb = Gdb(t, where)
    gdb.connect()
    t.check('"0"' in gdb.run("maintenance packet qqemu.PhyMemMode"), "the mode at the beginning")
    t.check('"OK"' in gdb.run("maintenance packet Qqemu.PhyMemMode:1"), "physical mode is refused")
    physical = walk(gdb, name)
    t.check('"cold"' in gdb.run(f"x/s {physical:#x}"), "another name by its physical address")
    if t.options.vmm == "guise":
        t.check("Cannot access memory" in gdb.run("x/1xw 0xfee00030"), "the local APIC was read")
    gdb.run(f"set *(char *){physical:#x} = 'b'")
    t.check('"OK"' in gdb.run("maintenance packet Qqemu.PhyMemMode:0"), "virtual mode is refused")
    t.check('"bold"' in gdb.run(f"x/s {name:#x}"), "another name by its virtual address")
    gdb.run("detach")
    gdb.quit(t)
    m.send("tell\n")
    m.expect("name is bold\n")
    end(t, m)


CR0_TS = 8


@test("gdb-control", timeout=90, on=GUISE)
def gdb_control(t):
    """Control registers take what the processor takes: the kernel finds CR0.TS set, and wonders."""
    m, where = debugged(t)
    symbols(m)
    gdb = Gdb(t, where)
    gdb.connect()
    cr0, cr3, efer = (gdb.value(f"${name}") for name in ("cr0", "cr3", "efer"))
    for refused in ("$cr3 = 1UL << 60", "$cr4 = 0", "$cr0 = 0x11", "$efer = 0"):
        t.check("Could not write register" in gdb.run(f"set {refused}"), f"{refused} was taken")
    t.equal([gdb.value(f"${name}") for name in ("cr0", "cr3", "efer")], [cr0, cr3, efer], "control registers")
    gdb.run(f"set $cr0 = {cr0 | CR0_TS:#x}")
    t.equal(gdb.value("$cr0"), cr0 | CR0_TS, "cr0")
    gdb.run("detach")
    gdb.quit(t)
    m.send("log CR0.TS was set\n")
    m.expect("log has it\n")
    end(t, m)


@test("gdb-boot", timeout=90, on=GUISE)
def gdb_boot(t):
    """From the first instruction: a paused machine, a breakpoint where the kernel will be mapped, another where it runs first."""
    m, where = debugged(t, paused=True, append="nokaslr")
    gdb = Gdb(t, where)
    gdb.connect()
    t.equal(gdb.value("$rip"), 0x1000000, "rip at the kernel's entry")  # the physical address that nokaslr makes it
    after = [int(line, 16) for line in re.findall(r"(0x[0-9a-f]+):\t", gdb.run("x/3i $rip"))]
    gdb.run("stepi")
    t.equal(gdb.value("$rip"), after[1], "rip after a step")
    time.sleep(1)
    t.equal(m.text, "", "console of a paused machine")
    gdb.run("break *0xffffffff81000000")
    gdb.run(f"hbreak *{after[2]:#x}")
    text = gdb.run("continue")
    t.check("Breakpoint 2," in text, f"the kernel's beginning was not met:\n{text}")
    t.equal(gdb.value("$rip"), after[2], "rip")
    gdb.run("delete")
    gdb.run("set $rax = 0x1234567890")
    t.equal(gdb.value("$rax"), 0x1234567890, "rax")
    t.check(gdb.value("$cr3") != 0 and gdb.value("$efer") & 0x500 == 0x500, "control registers")
    gdb.run("detach")
    symbols(m)
    end(t, m)


def symbol_file(address):
    """An ELF file that is nothing but these symbols and the section in which they lie."""
    begin = min(address.values())
    size = max(address.values()) + 4096 - begin
    names, table = b"\0", bytes(24)
    for name, value in address.items():
        table += struct.pack("<IBBHQQ", len(names), 0x12, 0, 1, value, 0)  # a global function of section 1
        names += name.encode() + b"\0"
    sections = b"\0.text\0.symtab\0.strtab\0.shstrtab\0"
    data = table + names + sections
    end = 64 + len(data)

    def section(name, kind, flags, at, offset, length, link=0, info=0, entry=0):
        return struct.pack("<IIQQQQIIQQ", sections.index(b"\0" + name + b"\0") + 1, kind, flags, at, offset, length, link, info, 8, entry)

    headers = bytes(64) + section(b".text", 8, 6, begin, 64, size)
    headers += section(b".symtab", 2, 0, 0, 64, len(table), 3, 1, 24)
    headers += section(b".strtab", 3, 0, 0, 64 + len(table), len(names))
    headers += section(b".shstrtab", 3, 0, 0, end - len(sections), len(sections))
    header = struct.pack("<4sBBBB8xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 2, 62, 1, begin, 0, end, 0, 64, 0, 0, 64, 5, 4)
    return header + data + headers


@test("gdb-vmlinux", timeout=90)
def gdb_vmlinux(t):
    """A kernel's symbols, as in the manual: it stops in start_kernel, shows who called that, steps, and goes on to the shell."""
    script = SCRIPT.replace("linux_banner", "linux_banner|start_kernel|secondary_startup_64|x86_64_start_kernel|rest_init|kernel_init")
    m, where = debugged(t, script=script, append="nokaslr")
    vmlinux = t.file("vmlinux", symbol_file(symbols(m)))
    gdb = Gdb(t, where)
    gdb.run(f"symbol-file {vmlinux}")
    gdb.connect()
    gdb.run("monitor " + ("system_reset" if t.options.vmm == "qemu" else "reset"))
    gdb.run("maintenance flush register-cache")  # first: GDB takes INT3, which freed code is full of, for a breakpoint of the program's
    gdb.run("hbreak *start_kernel")
    gdb.run("hbreak *rest_init")
    t.check("in start_kernel ()" in gdb.run("continue"), "not in start_kernel")
    callers = gdb.run("bt")
    t.check(re.search(r"#0 .*start_kernel \(\)\n#1 .*(secondary_startup_64|x86_64_start_kernel)", callers), f"no backtrace:\n{callers}")
    t.check(re.search(r"=> 0x\w+ <start_kernel>:", gdb.run("x/2i $rip")), "no instruction at start_kernel")
    before = gdb.value("$rip")
    gdb.run("stepi")
    t.check(gdb.value("$rip") != before, "a step did not move")
    t.check("in rest_init ()" in gdb.run("continue"), "not in rest_init")
    gdb.run("delete")
    gdb.run("detach")
    gdb.quit(t)
    m.expect(r"ready\n")
    end(t, m)


def counting_program(wide):
    """Counts for ever, in rbx and in memory, with ymm3 and zmm17 full of a pattern; calls the kernel now and then."""
    base, code = 0x400000, b""
    code += b"\x48\xb8" + bytes.fromhex("8877665544332211")  # mov rax, 0x1122334455667788
    code += b"\xc4\xe1\xf9\x6e\xd8" + b"\xc4\xe2\x7d\x59\xdb"  # vmovq xmm3, rax; vpbroadcastq ymm3, xmm3
    code += b"\x62\xe2\xfd\x48\x7c\xc8" if wide else b""  # vpbroadcastq zmm17, rax
    again = len(code)
    code += b"\x48\xff\xc3"  # inc rbx
    counted = len(code)
    code += b"\x48\xff\x04\x25" + struct.pack("<I", base + 0x1000)  # inc qword [base + 4096]
    code += b"\xf7\xc3\xff\xff\x0f\x00\x75"  # test ebx, 0xfffff; jnz again
    code += bytes([(again - len(code) - 1) & 0xFF])
    call = len(code) + 5
    code += b"\xb8\x27\0\0\0\x0f\x05"  # mov eax, SYS_getpid; syscall
    code += b"\xeb" + bytes([(again - len(code) - 2) & 0xFF])
    at = 64 + 56
    header = struct.pack("<4sBBBB8xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 2, 62, 1, base + at, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 7, 0, base, base, at + len(code), 0x2000, 4096)
    return header + segment + code, base + at + counted, base + at + call, base + 0x1000


USER_SCRIPT = """
/count & sleep 2
echo counting
read word; kill $!
echo finished
"""


def gdb_user(t, **kw):
    with open("/proc/cpuinfo", encoding="ascii") as f:
        wide = " avx512f " in f.read()
    program, counted, call, counter = counting_program(wide)
    m, where = debugged(t, script=USER_SCRIPT, files={"count": (0o755, program)}, **kw)
    m.expect(r"counting\n")
    gdb = Gdb(t, where)
    gdb.connect()
    gdb.run(f"break *{counted:#x}")
    gdb.run("continue")
    t.equal(gdb.value("$rip"), counted, "rip")
    t.equal(gdb.value("$cs") & 3, 3, "ring")
    count = gdb.value("$rbx")
    gdb.run("continue")
    t.equal(gdb.value("$rbx"), count + 1, "rbx one turn later")
    pattern = 0x1122334455667788
    t.equal([gdb.value(f"$ymm3.v4_int64[{i}]") for i in range(4)], [pattern] * 4, "ymm3")
    if wide:
        t.equal([gdb.value(f"$zmm17.v8_int64[{i}]") for i in (0, 3, 7)], [pattern] * 3, "zmm17")
    gdb.run("set $ymm3.v4_int64[2] = 5")
    gdb.run("set $rbx = 0xffffe")
    gdb.run("delete")
    gdb.run(f"watch *(long *){counter:#x}")
    old = gdb.value(f"*(long *){counter:#x}")
    gdb.run("continue")
    t.equal(gdb.value(f"*(long *){counter:#x}"), old + 1, "the counter after a write of it")
    gdb.run("delete")
    gdb.run(f"hbreak *{call:#x}")
    gdb.run("continue")
    t.equal(gdb.value("$rbx") & 0xFFFFF, 0, "rbx at the system call")
    t.equal(gdb.value("$ymm3.v4_int64[2]"), 5, "what was written into ymm3")
    gdb.run("delete")
    gdb.run("stepi")
    t.equal(gdb.value("$cs") & 3, 0, "ring behind SYSCALL")
    t.equal(gdb.value("$rcx"), call + 2, "where SYSRET goes")
    gdb.run(f"tbreak *{call + 2:#x}")
    gdb.run("continue")
    t.equal(gdb.value("$rip"), call + 2, "rip after the system call")
    gdb.run(f"set *(long *){counter:#x} = 0")
    gdb.start("continue")
    gdb.interrupt()
    t.check("SIGINT" in gdb.finish(), "no interrupt")
    gdb.run("detach")
    gdb.quit(t)
    m.send("end\n")
    m.expect(r"finished\n")
    t.equal(m.wait(), 0, "exit status")


@test("gdb-user", timeout=90, on=GUISE)
def gdb_user_one(t):
    """A program in the guest: breakpoints, watchpoints, vector registers, into the kernel and back, stopped while it computes."""
    gdb_user(t)


@test("gdb-user-direct", timeout=90, on=GUISE)
def gdb_user_direct(t):
    """The same while it runs in a process of its own."""
    gdb_user(t, engine="direct")


@test("gdb-user-smp", timeout=120, on=GUISE)
def gdb_user_smp(t):
    gdb_user(t, engine="direct", cpus=4)


@test("gdb-monitor", timeout=90, on=GUISE)
def gdb_monitor(t):
    """The machine's own commands: information, reset, end."""
    m, where = debugged(t, no_reboot=True)
    symbols(m)
    gdb = Gdb(t, where)
    gdb.connect()
    t.check("monitor reset" in gdb.run("monitor help"), "no help")
    t.check(re.search(r"CPU 0: 64-bit, ring \d, rip 0x", gdb.run("monitor info")), "no information")
    t.check("there is no command" in gdb.run("monitor nonsense"), "no refusal")
    gdb.run("monitor reset")
    gdb.run("maintenance flush register-cache")
    t.equal(gdb.value("$rip") % (2 << 20), 0, "rip at the kernel's entry, in its alignment")
    mark = len(m.text)
    gdb.start("continue")
    while "ready\n" not in m.text[mark:]:
        m.expect(r"ready\n")
    gdb.interrupt()
    gdb.finish()
    gdb.run("monitor quit")
    t.equal(m.wait(), 0, "exit status")


@test("gdb-trace", timeout=60, on=GUISE)
def gdb_trace(t):
    """What a guest did before a debugger stopped it stands in the trace's file while it is stopped."""
    log = t.path("trace")
    m, where = debugged(t, trace="interrupts,faults,msr:" + log)
    symbols(m)
    m.send("spin\n")
    m.expect("spinning\n")
    gdb = Gdb(t, where)
    for _ in range(3):
        gdb.connect()
        with open(log, encoding="ascii") as f:
            stopped = f.read()
        t.check(stopped.endswith("\n"), "the last line is cut off")
        gdb.run("disconnect")
    gdb.connect()
    with open(log, encoding="ascii") as f:
        stopped = f.read()
    gdb.run("monitor quit")
    t.equal(m.wait(), 0, "exit status")
    with open(log, encoding="ascii") as f:
        t.equal(f.read(), stopped, "the trace at its end")


@test("gdb-connections", timeout=90, on=GUISE)
def gdb_connections(t):
    """A second debugger is refused; one that vanishes, or talks nonsense, leaves the machine running."""
    path = t.path("gdb")
    m = t.start_exec(SCRIPT, stdin=True, extra=["--gdb", f"unix:{path}"])
    symbols(m)

    def connect():
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(20)
        s.connect(path)
        return s

    def alive(word):
        m.send(f"name {word}\n")
        m.expect(f"name is {word}\n")

    first, second = connect(), connect()
    first.sendall(b"$?#3f")
    got = b""
    while b"#" not in got:
        got += first.recv(100)
    t.check(got.startswith(b"+$T05"), f"no stop reply: {got!r}")
    t.equal(second.recv(100), b"", "what the second debugger gets")
    m.send("name stopped\n")
    time.sleep(1)
    t.check("name is stopped" not in m.text, "the machine runs with a debugger connected")
    first.close()
    m.expect("name is stopped\n")

    for noise in (b"\xff" * 5000, b"$" * 5000, b"$m0,ffffffffffffffff#00" * 50, b"$Gzz#9b$Z9,0,0#aa$vCont;#c5", b"$" + b"m" * 100000 + b"#00", b"#-+\x03" * 100):
        s = connect()
        s.sendall(noise)
        s.close()
        alive(f"n{len(noise)}")
    end(t, m)


@test("gdb-poweroff", timeout=90)
def gdb_poweroff(t):
    """The machine's end is told to the debugger; a guest that only computes can be interrupted."""
    m, where = debugged(t)
    symbols(m)
    m.send("spin\n")
    m.expect("spinning\n")
    gdb = Gdb(t, where)
    gdb.connect()
    for _ in range(3):
        gdb.start("continue")
        gdb.interrupt()
        t.check("SIGINT" in gdb.finish(), "no interrupt")
    gdb.start("continue")
    m.send("end\n")
    t.equal(m.wait(), 0, "exit status")
    t.check(re.search(r"exited normally|Remote connection closed", gdb.finish()), "the end was not told")
    gdb.quit(t)


# Each CPU calls sethostname so often, in a process of its own for each call, while other processes keep them busy.
SMP_SCRIPT = r"""
grep -E ' (__x64_sys_sethostname|init_uts_ns)$' /proc/kallsyms | while read a t n; do echo "symbol $n 0x$a"; done
for c in 0 1 2 3; do taskset -c $c sh -c 'while [ ! -e /tmp/stop ]; do :; done' & done
echo ready
while read word rest; do
	case $word in
	on) taskset -c ${rest% *} hostname ${rest#* }; echo "name is $(hostname)" ;;
	storm) for c in 0 1 2 3; do taskset -c $c sh -c 'for i in 1 2 3 4 5 6 7 8 9 10; do hostname n$i; done' & all="$all $!"; done; wait $all; echo calmed ;;
	end) break ;;
	esac
done
touch /tmp/stop; wait
dmesg | grep -ciE 'segfault|general protection|oops:'
echo finished
"""


@test("gdb-idle", timeout=90, on=GUISE)
def gdb_idle(t):
    """A guest that waits in HLT is interrupted there; a step waits with it, and ends where the interrupt's handler begins."""
    m, where = debugged(t, script=SCRIPT.replace("linux_banner", "asm_sysvec_apic_timer_interrupt"))
    handler = symbols(m)["asm_sysvec_apic_timer_interrupt"]
    time.sleep(1)
    gdb = Gdb(t, where)
    gdb.connect()
    for _ in range(2):
        gdb.start("continue")
        gdb.interrupt()
        t.check("SIGINT" in gdb.finish(), "no interrupt")
    t.check("CPU 0, halted" in gdb.run("info threads"), "not halted")
    t.check("hlt" in gdb.run("x/i $rip - 1"), "not behind HLT")
    gdb.run("stepi")
    t.equal(gdb.value("$rip"), handler, "rip after a step")
    gdb.run("stepi")
    t.between(gdb.value("$rip"), handler + 1, handler + 15, "rip after another step")
    gdb.run("detach")
    gdb.quit(t)
    end(t, m)


@test("gdb-smp-breakpoint", timeout=120)
def gdb_smp_breakpoint(t):
    """The CPU that runs into a breakpoint is the one that is told of, stepping moves it alone, and none of many calls on all CPUs is missed."""
    m, where = debugged(t, script=SMP_SCRIPT, cpus=4)
    entry = symbols(m)["__x64_sys_sethostname"]
    gdb = Gdb(t, where)
    gdb.connect()
    t.equal(len(re.findall(r"Thread ", gdb.run("info threads"))), 4, "threads")
    gdb.run(f"break *{entry:#x}")
    for cpu in (2, 0, 3):
        gdb.start("continue")
        m.send(f"on {cpu} cpu{cpu}\n")
        t.check("Breakpoint 1," in gdb.finish(), "the breakpoint was not met")
        t.equal(gdb.value("$_thread"), cpu + 1, "the thread that met it")
        gdb.run("set scheduler-locking step")
        for _ in range(3):
            before = gdb.value("$rip")
            gdb.run("stepi")
            t.check(gdb.value("$rip") != before, "a step did not move")
            t.equal(gdb.value("$_thread"), cpu + 1, "the thread that stepped")
        gdb.run("set scheduler-locking off")
    gdb.run("delete")
    gdb.run(f"break *{entry:#x}")
    gdb.run("ignore 2 100000")
    gdb.start("continue")
    m.expect("name is cpu3\n")
    m.send("storm\n")
    m.expect("calmed\n")
    gdb.interrupt()
    t.check("SIGINT" in gdb.finish(), "no interrupt")
    t.check("already hit 40 times" in gdb.run("info breakpoints"), "not every call was met once:\n" + gdb.run("info breakpoints"))
    gdb.run("delete")
    gdb.run("detach")
    gdb.quit(t)
    m.send("end\n")
    m.expect(r"\n0\nfinished\n")
    t.equal(m.wait(), 0, "exit status")


@test("gdb-smp-watchpoint", timeout=120, on=GUISE)
def gdb_smp_watchpoint(t):
    """Whichever CPU writes a watched byte is met, also one that had written there before anything was watched; breakpoints come and go meanwhile."""
    m, where = debugged(t, script=SMP_SCRIPT, cpus=4)
    address = symbols(m)
    place = f"*(char *){address['init_uts_ns'] + NODENAME:#x}"
    for cpu in range(4):
        m.send(f"on {cpu} warm{cpu}\n")
        m.expect(f"name is warm{cpu}\n")
    gdb = Gdb(t, where)
    gdb.connect()
    gdb.run(f"watch {place}")
    for cpu, name in ((1, "alpha"), (3, "beta"), (0, "gamma")):
        gdb.start("continue")
        m.send(f"on {cpu} {name}\n")
        t.check(f"'{name[0]}'" in gdb.finish(), f"the write of {name} was not met")
        t.equal(gdb.value("$_thread"), cpu + 1, "the thread that wrote")
    gdb.run("delete")
    for turn in range(5):
        gdb.run(f"break *{address['__x64_sys_sethostname']:#x}")
        gdb.start("continue")
        if turn == 0:
            m.expect("name is gamma\n")
        m.send(f"on {turn % 4} turn{turn}\n")
        t.check("Breakpoint" in gdb.finish(), "the breakpoint was not met")
        t.equal(gdb.value("$_thread"), turn % 4 + 1, "the thread that met it")
        gdb.run("delete")
        gdb.start("continue")
        m.expect(f"name is turn{turn}\n")
        gdb.interrupt()
        gdb.finish()
    gdb.run("detach")
    gdb.quit(t)
    m.send("end\n")
    m.expect(r"\n0\nfinished\n")
    t.equal(m.wait(), 0, "exit status")
