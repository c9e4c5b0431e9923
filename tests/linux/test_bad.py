# SPDX-License-Identifier: Apache-2.0
"""Bad files, bad options, bad circumstances. Every row is a test of its own: the program ends soon with the right status and one message that
names the object; no guest runs; nothing is printed on standard output; no signal ends it."""

import os
import re
import struct
import subprocess
import time

import vmm
from harness import GUISE, Skip, free_port, test

# A file or the host refuses; 125 is for guests that ran. Wrong usage is what no host would take.
FAILED = (1,)
USAGE = (2,)


def expect_refusal(t, argv, status, message, **kw):
    """Runs guise; it must refuse with one of `status` and a message that matches the regular expression."""
    m = t.guise(*argv, **kw)
    got = m.wait(10 * t.slow)
    t.check(got in status, f"exit status {got}, should be one of {status}")
    t.check(re.search(message, m.errors), f"the message lacks /{message}/")
    if "\nprofiling:" in m.errors:
        raise Skip("refused as it should be, but this user cannot write the coverage counts, and that is said, too")
    t.check(m.errors.startswith("guise: "), "the message does not start with the program's name")
    t.check(len(m.errors) < 4096 and "Sanitizer" not in m.errors, "the message is no message")
    if status is not USAGE:
        t.equal(m.errors.count("\nguise: error"), 0, "second messages")
    t.equal(m.text, "", "standard output")
    return m


def row(name, status, message, argv):
    """Registers a row. `argv`: a list, or a function of the test that makes files and returns one."""

    @test("bad-" + name, timeout=20, on=GUISE)
    def check(t):
        arguments = argv(t) if callable(argv) else argv
        expect_refusal(t, arguments, status, message)


def kernel_bytes():
    with open(vmm.KERNEL, "rb") as f:
        return f.read()


def kernel_only(kernel, *options):
    return ["run", "--kernel", kernel, "--cpus", "1", *options]


def run(*options):
    """A command line that would boot, but for `options`."""
    cpus = [] if "--cpus" in options else ["--cpus", "1"]
    return ["run", "--kernel", vmm.KERNEL, "--initrd", vmm.INITRD, *cpus, *options]


def with_kernel(data):
    return lambda t: kernel_only(t.file("kernel", data() if callable(data) else data))


def with_initrd(data):
    return lambda t: kernel_only(vmm.KERNEL, "--initrd", t.file("initrd", data))


def with_disk(data, options=""):
    return lambda t: run("--disk", t.file("disk", data) + options)


# Verbs and options

row("no-verb", USAGE, r"usage|help", [])
row("unknown-verb", USAGE, r"rnu.*run", ["rnu"])
row("unknown-verb-far", USAGE, r"xyzzy", ["xyzzy"])
row("unknown-option", USAGE, r"--memroy.*--memory", ["run", "--memroy", "1G"])
row("unknown-option-far", USAGE, r"--xyzzy", ["run", "--xyzzy"])
row("unknown-short-option", USAGE, r"-Z", ["run", "-Z"])
row("option-without-value", USAGE, r"--kernel", ["run", "--kernel"])
row("stray-argument", USAGE, r"stray", run("stray"))
row("help-unknown", USAGE, r"xyzzy", ["help", "xyzzy"])

for _name, _value in (
    ("zero", "0"),
    ("bare-number", "1024"),
    ("negative", "-1G"),
    ("word", "much"),
    ("empty", ""),
    ("unit", "1Q"),
    ("fraction", "1.5.5G"),
    ("wraps", "99999999999999999999G"),
    ("wraps-by-unit", "17179869184G"),
    ("tiny", "1K"),
    ("trailing", "1Gx"),
):
    row("memory-" + _name, USAGE, r"--?memory|memory", run("--memory", _value))
row("memory-beyond-host", FAILED, r"(?i)memory", run("--memory", "900T"))
row("memory-too-small-for-kernel", FAILED, r"(?i)memory|RAM|room", run("--memory", "16M"))

for _name, _value in (("zero", "0"), ("negative", "-1"), ("many", "65"), ("absurd", "18446744073709551617"), ("word", "two"), ("empty", "")):
    row("cpus-" + _name, USAGE, r"cpus", run("--cpus", _value))

row("engine", USAGE, r"engine.*(auto|bt|kvm)|(auto|bt|kvm).*engine", run("--engine", "btt"))
row("console", USAGE, r"console", run("--console", "television"))
row("console-file-empty", USAGE, r"console", run("--console", "file="))
row("console-directory", FAILED, r"(?i)directory", lambda t: run("--console", "file=" + t.directory))
row("console-unwritable", FAILED, r"absent", lambda t: run("--console", "file=" + t.path("absent/log")))
for _name, _value in (("zero", "0"), ("negative", "-1"), ("word", "soon"), ("wraps", "99999999999999999999")):
    row("timeout-" + _name, USAGE, r"timeout", run("--timeout", _value))
for _name, _value in (("range", "65536"), ("word", "door"), ("negative", "-1")):
    row("exit-port-" + _name, USAGE, r"exit-port", run("--exit-port", _value))
for _name, _value, _message in (
    ("kind", "usr", r"usr.*user|net"),
    ("key", "user,hostfw=tcp:1:2", r"hostfw.*hostfwd"),
    ("forward-form", "user,hostfwd=8080", r"hostfwd|8080"),
    ("forward-protocol", "user,hostfwd=sctp:80:80", r"sctp"),
    ("forward-range", "user,hostfwd=tcp:99999:80", r"99999"),
    ("forward-zero", "user,hostfwd=tcp:8080:0", r"hostfwd|port"),
    ("tap-empty", "tap=", r"tap"),
):
    row("net-" + _name, USAGE, _message, run("--net", _value))
row("net-tap-absent", FAILED, r"no-such-interface-here|tap", run("--net", "tap=no-such-interface-here"))
row("append-too-long", FAILED, r"(?i)append|command line", run("--append", "x" * 70000))
row("initrd-without-kernel", USAGE, r"--kernel|kernel", ["run", "--initrd", vmm.INITRD])

# Kernels

row("kernel-missing", FAILED, r"no-such-kernel.*[Nn]o such file", kernel_only("/no-such-kernel"))
row("kernel-directory", FAILED, r"directory", lambda t: kernel_only(t.directory))
row("kernel-endless", FAILED, r"/dev/zero", kernel_only("/dev/zero"))


@test("bad-kernel-fifo", timeout=20, on=GUISE)
def bad_kernel_fifo(t):
    """Opening a FIFO without a writer waits for ever: it must be refused instead."""
    fifo = t.path("fifo")
    os.mkfifo(fifo)
    expect_refusal(t, kernel_only(fifo), FAILED, "fifo")


for _name, _data in (
    ("empty", b""),
    ("one-byte", b"\x7f"),
    ("text", b"#!/bin/sh\necho no kernel\n" * 100),
    ("zeros", bytes(1 << 20)),
    ("elf-magic-only", b"\x7fELF"),
    ("elf-header-only", b"\x7fELF\x02\x01\x01" + bytes(57)),
    ("elf-other-machine", b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 183, 1, 0x100000, 64, 0, 0, 64, 56, 1, 0, 0, 0) + bytes(4096)),
    ("elf-headers-far", b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x100000, 2**64 - 32, 0, 0, 64, 56, 65535, 0, 0, 0) + bytes(4096)),
    ("elf-many-headers", b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x100000, 64, 0, 0, 64, 56, 65535, 0, 0, 0) + b"\xff" * 4096),
    ("multiboot-garbage", struct.pack("<III", 0x1BADB002, 0x10000, (-0x1BADB002 - 0x10000) & 0xFFFFFFFF) + b"\xff" * 4096),
):
    row("kernel-" + _name, FAILED, r"kernel", with_kernel(_data))


@test("bad-kernel-random", timeout=60, on=GUISE)
def bad_kernel_random(t):
    for i in range(8):
        expect_refusal(t, kernel_only(t.file(f"kernel{i}", os.urandom(1 << (3 * i)))), FAILED, f"kernel{i}")


@test("bad-kernel-truncated", timeout=120, on=GUISE)
def bad_kernel_truncated(t):
    """Cut everywhere a header or a table ends, and in between. (The last bytes of Debian's file are its signature, which is not loaded.)"""
    whole = kernel_bytes()
    loaded = (whole[0x1F1] + 1) * 512 + struct.unpack_from("<I", whole, 0x1F4)[0] * 16
    for length in (1, 2, 0x1F0, 0x1F1, 0x1FE, 0x200, 0x202, 0x206, 0x210, 0x230, 0x263, 0x268, 1024, 4096, 16384, 1 << 20, loaded // 2, loaded - 512, loaded - 1):
        expect_refusal(t, kernel_only(t.file(f"kernel{length}", whole[:length])), FAILED, f"kernel{length}")


def _poke(offset, fmt, value):
    def data():
        image = bytearray(kernel_bytes())
        struct.pack_into(fmt, image, offset, value)
        return bytes(image)

    return data


for _name, _offset, _fmt, _value in (
    ("magic", 0x202, "<4s", b"HdrX"),
    ("boot-flag", 0x1FE, "<H", 0x1234),
    ("version-old", 0x206, "<H", 0x0100),
    ("setup-sects-max", 0x1F1, "<B", 255),
    ("syssize-max", 0x1F4, "<I", 0xFFFFFFFF),
    ("syssize-zero", 0x1F4, "<I", 0),
    ("init-size-max", 0x260, "<I", 0xFFFFFFFF),
    ("pref-address-high", 0x258, "<Q", 0xFFFFFFFFFFE00000),
    ("pref-address-over-ram", 0x258, "<Q", 0x3F000000),
    ("cmdline-size-zero", 0x238, "<I", 0),
    ("initrd-max-low", 0x22C, "<I", 0x1000),
):
    def _argv(t, offset=_offset, fmt=_fmt, value=_value):
        kernel = t.file("kernel", _poke(offset, fmt, value)())
        # Not relocatable, so that an address that cannot be used is not merely avoided.
        if offset == 0x258:
            with open(kernel, "r+b") as f:
                f.seek(0x234)
                f.write(b"\0")
        return kernel_only(kernel, "--initrd", vmm.INITRD, "--memory", "1G", "--append", "console=ttyS0")

    row("kernel-header-" + _name, FAILED, r"kernel", _argv)

# Initramfs. Its content is the guest's business; that it fits is ours.

row("initrd-missing", FAILED, r"no-such-initrd.*[Nn]o such file", kernel_only(vmm.KERNEL, "--initrd", "/no-such-initrd"))
row("initrd-directory", FAILED, r"directory", lambda t: kernel_only(vmm.KERNEL, "--initrd", t.directory))
row("initrd-endless", FAILED, r"/dev/zero", kernel_only(vmm.KERNEL, "--initrd", "/dev/zero"))


@test("bad-initrd-oversized", timeout=20, on=GUISE)
def bad_initrd_oversized(t):
    big = t.path("initrd")
    with open(big, "wb") as f:
        f.truncate(3 << 30)
    expect_refusal(t, kernel_only(vmm.KERNEL, "--initrd", big, "--memory", "512M"), FAILED, "initrd")


@test("bad-initrd-garbage", timeout=60)
def bad_initrd_garbage(t):
    """Random bytes for an initramfs: the guest says so itself and panics; the machine ends as it was told to."""
    m = t.start(initrd=t.file("initrd", os.urandom(100000)), append="panic=-1", no_reboot=True)
    t.equal(m.wait(), 0, "exit status")
    t.check("Kernel panic - not syncing" in m.text, "no panic on the console")


# Disks

row("disk-missing", FAILED, r"no-such-disk.*[Nn]o such file", run("--disk", "/no-such-disk"))
row("disk-no-value", USAGE, r"--disk", run("--disk"))
row("disk-empty-name", USAGE, r"--disk|disk", run("--disk", ""))
row("disk-directory", FAILED, r"directory", lambda t: run("--disk", t.directory))
row("disk-empty", FAILED, r"disk", with_disk(b""))
row("disk-part-of-a-sector", FAILED, r"disk", with_disk(b"x" * 100))
row("disk-key", USAGE, r"readnoly.*readonly", with_disk(bytes(4096), ",readnoly"))
row("disk-format", USAGE, r"format", with_disk(bytes(4096), ",format=floppy"))
row("disk-character-device", FAILED, r"/dev/zero", run("--disk", "/dev/zero"))


@test("bad-disk-fifo", timeout=20, on=GUISE)
def bad_disk_fifo(t):
    fifo = t.path("fifo")
    os.mkfifo(fifo)
    expect_refusal(t, run("--disk", fifo), FAILED, "fifo")


@test("bad-disk-too-many", timeout=20, on=GUISE)
def bad_disk_too_many(t):
    options = []
    for i in range(100):
        options += ["--disk", t.file(f"disk{i}", bytes(4096))]
    expect_refusal(t, run(*options), USAGE, "(?i)disk|slots|options|devices")


@test("bad-disk-unwritable", timeout=20, on=GUISE)
def bad_disk_unwritable(t):
    """A disk that this user may only read: the message says so and names ,readonly."""
    disk = t.file("disk", bytes(1 << 20))
    os.chmod(disk, 0o444)
    os.chmod(t.directory, 0o755)
    user = None
    if os.geteuid() == 0:
        user = 65534
        if subprocess.run([t.options.guise, "--version"], user=user, capture_output=True, check=False).returncode != 0:
            raise Skip("user nobody cannot run the program here")
    expect_refusal(t, run("--disk", disk), FAILED, r"disk.*[Pp]ermission denied.*readonly|readonly", user=user)


@test("bad-disk-in-use", timeout=40, on=GUISE)
def bad_disk_in_use(t):
    """Two machines, or one machine twice, on the same writable disk would destroy it."""
    disk = t.file("disk", bytes(1 << 20))
    expect_refusal(t, run("--disk", disk, "--disk", disk), FAILED, "disk")
    first = t.start_exec("echo holding; sleep 1000", disks=[(disk, False)])
    first.expect(r"holding\n")
    expect_refusal(t, run("--disk", disk), FAILED, "disk")
    expect_refusal(t, run("--disk", disk + ",readonly"), FAILED, "disk")


@test("bad-disk-shared-readonly", timeout=60, on=GUISE)
def bad_disk_shared_readonly(t):
    """Readers may share."""
    disk = t.file("disk", os.urandom(1 << 20))
    first = t.start_exec("echo holding; sleep 1000", disks=[(disk, True)])
    first.expect(r"holding\n")
    second = t.start_exec("echo second", disks=[(disk, True)])
    t.equal(second.wait(), 0, "exit status")


# Circumstances


@test("bad-no-terminal", timeout=60, on=GUISE)
def bad_no_terminal(t):
    """Neither input nor output is a terminal, as in a CI job."""
    m = t.start_exec("echo here")
    t.equal(m.wait(), 0, "exit status")
    t.check("here\n" in m.text, "no output")


@test("bad-closed-descriptors", timeout=60, on=GUISE)
def bad_closed_descriptors(t):
    """Started with standard input, output and error closed: no other file may be mistaken for them."""
    disk = t.file("disk", bytes(1 << 20))
    argv = vmm.guise_argv(t.options.guise, vmm.Config(disks=[(disk, False)], append="console=ttyS0 guise.exec=dHJ1ZQ==", engine=t.options.engine))
    m = t.spawn(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *argv])
    status = m.wait()
    t.check(0 <= status < 128, f"exit status {status}")
    with open(disk, "rb") as f:
        t.check(f.read() == bytes(1 << 20), "console output was written to the disk")


@test("bad-address-space-limit", timeout=30, on=GUISE)
def bad_address_space_limit(t):
    """RLIMIT_AS is too small for the reservation: said clearly, with the limit's name."""
    m = t.spawn(["sh", "-c", 'ulimit -v 4000000; exec "$@"', "sh", t.options.guise, *run()])
    status = m.wait(15 * t.slow)
    if "Sanitizer" in m.errors:
        raise Skip("a sanitizer's own reservation fails first")
    t.check(status in FAILED, f"exit status {status}")
    t.check(re.search(r"ulimit|RLIMIT_AS|address space|virtual memory", m.errors), "the message does not name the limit")


@test("bad-file-limit", timeout=30, on=GUISE)
def bad_file_limit(t):
    """No descriptors to be had."""
    for n in (3, 5, 8):
        m = t.spawn(["sh", "-c", f'ulimit -n {n}; exec "$@"', "sh", t.options.guise, *run("--net", "user", "--disk", t.file("disk", bytes(4096)))])
        status = m.wait(15 * t.slow)
        t.check(status in FAILED or status == 127, f"exit status {status} with {n} descriptors")


@test("bad-guest-files-missing", timeout=20, on=GUISE)
def bad_guest_files_missing(t):
    """`guise run` without a kernel where no default guest was made: the message says how to make it."""
    copy = t.path("guise")
    with open(t.options.guise, "rb") as source, open(copy, "wb") as out:
        out.write(source.read())
    os.chmod(copy, 0o755)
    m = t.spawn(["sh", "-c", 'cd "$0" && exec ./guise run', t.directory])
    try:
        m.expect(r"guise: init\n", 8 * t.slow)
        raise Skip("a default guest is installed on this host")
    except vmm.VmmError:
        pass
    status = m.wait(5 * t.slow)
    t.check(status in FAILED, f"exit status {status}")
    t.check("make guest" in m.errors, "the message does not say how to make one")


@test("bad-stopped-and-continued", timeout=60, on=GUISE)
def bad_stopped(t):
    """SIGSTOP for a while, then SIGCONT: the guest goes on, its clocks do not jump back."""
    m = t.start_exec("for i in $(seq 1 40); do cut -d' ' -f1 /proc/uptime; usleep 100000; done", cpus=2)
    m.expect(r"guise: exec\n")
    m.signal(19)
    time.sleep(3)
    m.signal(18)
    t.equal(m.wait(), 0, "exit status")
    times = [float(line) for line in vmm.Exec.result(m.text)[1].split()]
    t.equal(times, sorted(times), "guest's clock")


# What must not be refused


@test("good-help", timeout=20, on=GUISE)
def good_help(t):
    for argv in (["--help"], ["help"], ["help", "run"], ["run", "--help"], ["help", "doctor"], ["--version"], ["run", "--disk", "help"]):
        m = t.guise(*argv)
        t.equal(m.wait(), 0, f"exit status of {argv}")
        t.check(m.text.strip() and not m.errors, f"{argv}: help belongs on standard output")
    m = t.guise("--version")
    m.wait()
    t.check(re.fullmatch(r"guise \d+\.\d+\.\d+.*\n", m.text), m.text)


@test("good-doctor", timeout=30, on=GUISE)
def good_doctor(t):
    m = t.guise("doctor")
    t.equal(m.wait(), 0, "exit status")
    t.check("bt" in m.text and "kvm" in m.text.lower(), "the engines are not named")


@test("good-kernel-without-64-bit-entry", timeout=60, on=GUISE)
def good_kernel_without_64_bit_entry(t):
    """Such a kernel is started in 32-bit protected mode and finds its own way."""
    m = t.start_exec("true", kernel=t.file("kernel", _poke(0x236, "<H", 0)()))
    t.equal(m.wait(), 0, "exit status")
    t.check("guise: exec status 0" in m.text, "it did not boot")


@test("good-memory-units", timeout=60, on=GUISE)
def good_memory_units(t):
    for size in ("256M", "262144K", "256MiB"):
        t.check("guise: exec status 0" in _run_with_memory(t, size), size)


def _run_with_memory(t, size):
    m = t.start_exec("true", memory=size)
    t.equal(m.wait(), 0, f"exit status with {size}")
    return m.text


@test("good-two-machines", timeout=90, on=GUISE)
def good_two_machines(t):
    """Two machines beside each other do not notice."""
    port = free_port()
    machines = [t.start_exec("sleep 1; echo mine", net="user", hostfwd=[(port, 80)] if i else []) for i in range(2)]
    for m in machines:
        t.equal(m.wait(), 0, "exit status")
        t.check("mine\n" in m.text, "no output")
