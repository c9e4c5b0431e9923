# SPDX-License-Identifier: Apache-2.0
"""Bad files, bad options, bad circumstances. Every row is a test of its own: the program ends soon with the one status that the manual gives,
and one message that names the object, the reason and what to do; no guest runs; nothing is printed on standard output; no signal ends it."""

import os
import re
import shutil
import socket
import struct
import subprocess
import time

import vmm
from harness import GUISE, Skip, free_port, test

# A file or the host refuses; 125 is for guests that ran. Wrong usage is what no host would take.
FAILED = 1
USAGE = 2


def messages(text):
    """What guise itself said, line by line."""
    return [line for line in text.splitlines() if line.startswith("guise: ")]


def expect_one_message(t, m, status, parts, timeout=10):
    """The machine must have ended with `status` and one message that matches the regular expressions `parts` in this order."""
    got = m.wait(timeout * t.slow)
    if "\nprofiling:" in m.errors:
        raise Skip("refused as it should be, but this user cannot write the coverage counts, and that is said, too")
    t.equal(got, status, "exit status")
    t.equal(m.text, "", "standard output")
    said = messages(m.errors)
    t.equal(len(said), 1, "messages")
    t.check(len(said[0]) < 1100, "the message is no message")
    rest = m.errors.removeprefix(said[0] + "\n")
    t.check(rest == "" or rest.startswith("usage: guise VERB"), "something stands beside the message, which a sanitizer may have said")
    at = 0
    for what, part in zip(("object", "reason", "advice"), parts):
        found = re.compile(part).search(said[0], at)
        t.check(found, f"the {what} is missing: /{part}/")
        at = found.end()


def expect_refusal(t, argv, status, *parts, **kw):
    """Runs guise; it must refuse. `parts`: regular expressions for the object, the reason and what to do."""
    m = t.guise(*argv, **kw)
    expect_one_message(t, m, status, parts)
    return m


def row(name, status, parts, argv):
    """Registers a row. `argv`: a list, or a function of the test that makes files and returns one."""
    assert len(parts) == 3, f"bad-{name}: object, reason, advice"

    @test("bad-" + name, timeout=20, on=GUISE)
    def check(t):
        arguments = argv(t) if callable(argv) else argv
        expect_refusal(t, arguments, status, *parts)


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

HELP_RUN = r"\(see: guise help run\)"

row("no-verb", USAGE, ("", "no verb is given", "see: guise --help"), [])
row("unknown-verb", USAGE, ('"rnu"', "", 'did you mean "guise run"'), ["rnu"])
row("unknown-verb-far", USAGE, ("no verb", '"xyzzy"', "see: guise --help"), ["xyzzy"])
row("unknown-option", USAGE, ("--memroy", "", "did you mean --memory"), ["run", "--memroy", "1G"])
row("unknown-option-far", USAGE, ("no option", "--xyzzy", HELP_RUN), ["run", "--xyzzy"])
row("unknown-short-option", USAGE, ("no option", "-Z", "two dashes"), ["run", "-Z"])
row("option-without-value", USAGE, ("--kernel", "needs a value", "--kernel FILE"), ["run", "--kernel"])
row("option-twice", USAGE, ("--cpus", "given twice", HELP_RUN), ["run", "--cpus", "1", "--cpus", "1"])
row("flag-with-value", USAGE, ("--stats", "takes no value", HELP_RUN), ["run", "--stats=yes"])
row("stray-argument", USAGE, ('"stray"', "is not an option", "--kernel stray"), run("stray"))
row("help-unknown", USAGE, ("no verb", '"xyzzy"', "see: guise --help"), ["help", "xyzzy"])
row("help-of-two", USAGE, ("help", "takes one verb", "see: guise --help"), ["help", "run", "doctor"])
row("doctor-argument", USAGE, ("doctor", 'takes no "now"', r"\(see: guise help doctor\)"), ["doctor", "now"])
row("doctor-cpu-argument", USAGE, ("doctor", 'takes no "now"', r"\(see: guise help doctor\)"), ["doctor", "--cpu", "host", "now"])
row("doctor-cpu", USAGE, ("CPU model", '"x86-64-v1"', 'did you mean "x86-64-v2"'), ["doctor", "--cpu=x86-64-v1"])

NO_SIZE = "is not a size"
for _name, _value, _reason, _advice in (
    ("zero", "0", '"0" has no unit', "write 0M"),
    ("zero-mebibytes", "0M", "0M is too small", "at least 1M"),
    ("bare-number", "1024", '"1024" has no unit', "write 1024M for mebibytes or 1024G"),
    ("negative", "-1G", '"-1G" ' + NO_SIZE, "write it like 512M"),
    ("word", "much", '"much" ' + NO_SIZE, "write it like 512M"),
    ("empty", "", '"" ' + NO_SIZE, "write it like 512M"),
    ("unit", "1Q", '"1Q" ' + NO_SIZE, "the units are K, M, G and T"),
    ("fraction", "1.5.5G", '"1.5.5G" ' + NO_SIZE, "the units are K, M, G and T"),
    ("wraps", "99999999999999999999G", "99999999999999999999G is too large", "give less than"),
    ("wraps-by-unit", "17179869184G", "17179869184G is too large", "give less than"),
    ("impossible", "17T", "17T is too large", "at most 16T"),
    ("tiny", "1K", "1K is too small", "at least 1M"),
    ("odd", "1025K", "1025K is not a multiple", "of 4K"),
    ("trailing", "1Gx", '"1Gx" ' + NO_SIZE, "the units are K, M, G and T"),
):
    row("memory-" + _name, USAGE, ("--memory: ", _reason, _advice), run("--memory", _value))
row("memory-beyond-host", FAILED, ("guest memory of 16776192 MiB", "is more than the host has", "less with --memory"), run("--memory", "16776192M"))
row("memory-too-small-for-kernel", FAILED, ("vmlinuz: ", "the kernel .* outside guest memory of 16 MiB", "more with --memory"), run("--memory", "16M"))

for _name, _value, _reason in (
    ("zero", "0", "0 is out of range"),
    ("negative", "-1", '"-1" is not a whole number'),
    ("many", "65", "65 is out of range"),
    ("absurd", "18446744073709551617", '"18446744073709551617" is not a whole number'),
    ("word", "two", '"two" is not a whole number'),
    ("empty", "", '"" is not a whole number'),
):
    row("cpus-" + _name, USAGE, ("--cpus: ", _reason, "from 1 to 64"), run("--cpus", _value))

row("cpu", USAGE, ("--cpu: ", '"hots" is not one of host, max, x86-64-v2, x86-64-v3', 'did you mean "host"'), run("--cpu", "hots"))
row("cpu-memory", USAGE, ("--memory: ", "more than CPU model x86-64-v3 can address", "at most 523264 MiB"), run("--cpu", "x86-64-v3", "--memory", "512G"))
row("engine", USAGE, ("--engine: ", '"btt" is not one of auto, bt, kvm', 'did you mean "bt"'), run("--engine", "btt"))
row("engine-empty", USAGE, ("--engine: ", '"" is not one of', "auto, bt, kvm"), run("--engine", ""))
row("console", USAGE, ("--console: ", '"television" is not one of', "stdio, file=PATH, null"), run("--console", "television"))
row("console-file-empty", USAGE, ("--console: ", '"file=" is not one of', 'did you mean "file=PATH"'), run("--console", "file="))
NAME_A_FILE = "name a file that this user can make and write"
row("console-directory", FAILED, ("--console file=\\S+:", "Is a directory", NAME_A_FILE), lambda t: run("--console", "file=" + t.directory))
row("trace-category", USAGE, ("--trace: ", 'no category "mmoi"', 'did you mean "mmio"'), run("--trace", "exits,mmoi:f"))
row("trace-file-empty", USAGE, ("--trace: ", "the file name behind ':' is empty", HELP_RUN), run("--trace", "exits:"))
row("trace-unwritable", FAILED, ("--trace: .*absent/log", "No such file", NAME_A_FILE), lambda t: run("--trace", "all:" + t.path("absent/log")))
row("console-unwritable", FAILED, ("--console file=.*absent/log", "No such file", NAME_A_FILE), lambda t: run("--console", "file=" + t.path("absent/log")))
for _name, _value, _reason, _advice in (
    ("zero", "0", "0 is no time", "more than 0 seconds"),
    ("negative", "-1", '"-1" is not a number of seconds', "such as 60"),
    ("word", "soon", '"soon" is not a number of seconds', "such as 60"),
    ("wraps", "99999999999999999999", '"99999999999999999999" is not a number of seconds up to 1000000000', "such as 60"),
):
    row("timeout-" + _name, USAGE, ("--timeout: ", _reason, _advice), run("--timeout", _value))
for _name, _value, _reason, _advice in (
    ("range", "65536", "65536 is out of range", "from 0 to 0xfffc"),
    ("last", "65533", "65533 is out of range", "from 0 to 0xfffc"),
    ("word", "door", '"door" is not a whole number', "such as 80 or 0x50"),
    ("negative", "-1", '"-1" is not a whole number', "such as 80 or 0x50"),
):
    row("exit-port-" + _name, USAGE, ("--exit-port: ", _reason, _advice), run("--exit-port", _value))
row("exit-port-taken", FAILED, ("--exit-port: ", "exit port at 0x3f8 overlaps uart", "choose another"), run("--exit-port", "0x3f8"))
row("name-empty", USAGE, ("--name: ", "a name has", "1 to 64 characters"), run("--name", ""))
HOSTFWD = "write it as tcp:HOSTPORT:GUESTPORT"
for _name, _value, _object, _reason, _advice in (
    ("kind", "usr", "--net: ", "'usr' is unknown", "choose one of user, tap=NAME and none"),
    ("kinds", "user,tap=tap0", "--net: ", "'user' and tap= exclude each other", "choose one of"),
    ("key", "user,hostfw=tcp:1:2", "--net", 'does not take "hostfw"', 'did you mean "hostfwd"'),
    ("forward-form", "user,hostfwd=8080", "--net: ", "hostfwd '8080'", HOSTFWD),
    ("forward-protocol", "user,hostfwd=sctp:80:80", "--net: ", "hostfwd 'sctp:80:80'", HOSTFWD),
    ("forward-range", "user,hostfwd=tcp:99999:80", "--net: hostfwd 'tcp:99999:80'", "'99999' is not a port", "from 1 to 65535"),
    ("forward-zero", "user,hostfwd=tcp:8080:0", "--net: hostfwd 'tcp:8080:0'", "'0' is not a port", "from 1 to 65535"),
    ("forward-wraps", "user,hostfwd=tcp:65616:80", "--net: hostfwd 'tcp:65616:80'", "'65616' is not a port", "from 1 to 65535"),
    ("forward-address", "user,hostfwd=tcp:localhost:1:2", "--net: hostfwd", "'localhost' is not an IPv4 address", "like 127.0.0.1"),
    ("forward-of-tap", "tap=tap0,hostfwd=tcp:1:2", "--net: ", "hostfwd is for user networking", "tap=tap0 the host's own network leads to the guest"),
    ("mac", "user,mac=hello", "--net: ", "'hello' is not a MAC address", "write it like 02:"),
    ("mac-multicast", "user,mac=01:00:00:00:00:00", "--net: ", "multicast", "make its first byte even"),
    ("mtu", "user,mtu=10", "--net: ", "mtu must be", "from 68 to 65520"),
    ("tap-empty", "tap=", "--net,tap: ", "needs a value", HELP_RUN),
    ("tap-long", "tap=no-such-interface-here", "--net: tap 'no-such-interface-here'", "an interface name has", "1 to 15 characters"),
):
    row("net-" + _name, USAGE, (_object, _reason, _advice), run("--net", _value))
row(
    "net-tap-absent",
    FAILED,
    ("--net: tap 'guise-absent'", "no such interface", "ip tuntap add dev guise-absent mode tap"),
    run("--net", "tap=guise-absent"),
)
row("append-too-long", FAILED, ("vmlinuz: ", "the command line has 70000 characters, this kernel takes at most 2047", "shorten --append"), run("--append", "x" * 70000))
row("append-too-long-for-any", FAILED, ("--append: ", "70000 characters are too many", "shorten it"), ["run", "--append", "x" * 70000])
row("initrd-without-kernel", USAGE, ("--initrd", "needs --kernel", "the default guest has its own"), ["run", "--initrd", vmm.INITRD])


@test("bad-net-forward-taken", timeout=20, on=GUISE)
def bad_net_forward_taken(t):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        expect_refusal(t, run("--net", f"user,hostfwd=tcp:{port}:80"), FAILED, "--net: ", f"cannot listen on TCP port {port} .*127.0.0.1", "choose another with hostfwd: Address already in use")


# Kernels

READABLE = "name a file that this user can read"
COPY_INTO_ONE = "copy its content into one"
row("kernel-missing", FAILED, ("the kernel /no-such-kernel", "No such file", READABLE), kernel_only("/no-such-kernel"))
row("kernel-directory", FAILED, ("the kernel /.*kernel-directory", "is a directory", "name a file"), lambda t: kernel_only(t.directory))
row("kernel-endless", FAILED, ("the kernel /dev/zero", "is not a regular file", COPY_INTO_ONE), kernel_only("/dev/zero"))


@test("bad-kernel-fifo", timeout=20, on=GUISE)
def bad_kernel_fifo(t):
    """Opening a FIFO without a writer waits for ever: it must be refused instead."""
    fifo = t.path("fifo")
    os.mkfifo(fifo)
    expect_refusal(t, kernel_only(fifo), FAILED, "the kernel .*/fifo", "is not a regular file", COPY_INTO_ONE)


AGAIN = "build or copy (it|this one) again"
NO_KIND = "is of no known kind: .*bzImage.*multiboot.*ELF"


def _elf(machine, headers_at, headers, body):
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0x100000, headers_at, 0, 0, 64, 56, headers, 0, 0, 0) + body


for _name, _data, _reason, _advice in (
    ("empty", b"", "is empty", AGAIN),
    ("one-byte", b"\x7f", NO_KIND, "give one that is"),
    ("text", b"#!/bin/sh\necho no kernel\n" * 100, NO_KIND, "give one that is"),
    ("zeros", bytes(1 << 20), NO_KIND, "give one that is"),
    ("gzip", b"\x1f\x8b" + bytes(4096), "is compressed with gzip", "gunzip"),
    ("initramfs", b"070701" + bytes(4096), "is a cpio archive", "--initrd"),
    ("elf-magic-only", b"\x7fELF", "is cut short or damaged: the ELF header", AGAIN),
    ("elf-header-only", b"\x7fELF\x02\x01\x01" + bytes(57), "ELF header: not an x86 program", AGAIN),
    ("elf-other-machine", _elf(183, 64, 1, bytes(4096)), "ELF header: not an x86 program, e_machine \\(0xb7\\)", AGAIN),
    ("elf-headers-far", _elf(62, 2**64 - 32, 1, bytes(4096)), "(cut short|wrap around)", AGAIN),
    ("elf-many-headers", _elf(62, 64, 65535, b"\xff" * 4096), "no usable program headers, e_phnum \\(0xffff\\)", AGAIN),
    ("elf-no-headers", _elf(62, 64, 0, bytes(4096)), "no usable program headers, e_phnum \\(0\\)", AGAIN),
    ("elf-program", _elf(62, 64, 1, bytes(4096)), "is ELF but has neither a PVH note nor a multiboot header", "give its bzImage"),
    (
        "multiboot-garbage",
        struct.pack("<III", 0x1BADB002, 0x10000, (-0x1BADB002 - 0x10000) & 0xFFFFFFFF) + b"\xff" * 4096,
        "multiboot header: load_end_addr is 0xffffffff: there is nothing to load",
        AGAIN,
    ),
):
    row("kernel-" + _name, FAILED, (rf"/guise-bad-kernel-{_name}-\w+/kernel", _reason, _advice), with_kernel(_data))


@test("bad-kernel-random", timeout=60, on=GUISE)
def bad_kernel_random(t):
    for i in range(8):
        data = b"?" + os.urandom(1 << (3 * i))  # no magic number begins so
        expect_refusal(t, kernel_only(t.file(f"kernel{i}", data)), FAILED, f"the kernel .*/kernel{i}", NO_KIND, "give one that is")


@test("bad-kernel-truncated", timeout=120, on=GUISE)
def bad_kernel_truncated(t):
    """Cut everywhere a header or a table ends, and in between. (The last bytes of Debian's file are its signature, which is not loaded.)"""
    whole = kernel_bytes()
    loaded = (whole[0x1F1] + 1) * 512 + struct.unpack_from("<I", whole, 0x1F4)[0] * 16
    for length in (1, 2, 0x1F0, 0x1F1, 0x1FE, 0x200, 0x202, 0x206, 0x210, 0x230, 0x263, 0x268, 1024, 4096, 16384, 1 << 20, loaded // 2, loaded - 512, loaded - 1):
        reason = "is cut short or damaged"
        if length < 0x206:  # before the header's magic number
            reason = "is an EFI program without a Linux boot header" if length > 1 else NO_KIND
        expect_refusal(t, kernel_only(t.file(f"kernel{length}", whole[:length])), FAILED, f"/kernel{length}", reason, f"give|{AGAIN}")


def _poke(offset, fmt, value):
    def data():
        image = bytearray(kernel_bytes())
        struct.pack_into(fmt, image, offset, value)
        return bytes(image)

    return data


EFI_ONLY = "is an EFI program without a Linux boot header"
for _name, _offset, _fmt, _value, _reason, _advice in (
    ("magic", 0x202, "<4s", b"HdrX", EFI_ONLY, "give a bzImage"),
    ("boot-flag", 0x1FE, "<H", 0x1234, EFI_ONLY, "give a bzImage"),
    ("version-old", 0x206, "<H", 0x0100, "version is 0x100: boot protocols before 2.06 .* are not supported", AGAIN),
    ("setup-sects-max", 0x1F1, "<B", 255, "cut short or damaged", AGAIN),
    ("syssize-max", 0x1F4, "<I", 0xFFFFFFFF, "syssize is 0xffffffff: the kernel is larger than the file", AGAIN),
    ("syssize-zero", 0x1F4, "<I", 0, "syssize is 0: there is no kernel behind the header", AGAIN),
    ("init-size-max", 0x260, "<I", 0xFFFFFFFF, "the kernel with its working space needs 4194304 KiB .* outside guest memory", "more with --memory"),
    ("pref-address-high", 0x258, "<Q", 0xFFFFFFFFFFE00000, "pref_address is 0xffffffffffe00000: outside the memory", AGAIN),
    ("pref-address-over-ram", 0x258, "<Q", 0x3F000000, "the kernel with its working space .* outside guest memory", "more with --memory"),
    ("cmdline-size-zero", 0x238, "<I", 0, "the command line has 13 characters, this kernel takes at most 0", "shorten --append"),
    ("initrd-max-low", 0x22C, "<I", 0x1000, "initrd.img: no room for the initrd of .* below 0x1001", "give a kernel that takes it higher"),
):
    def _argv(t, offset=_offset, fmt=_fmt, value=_value):
        kernel = t.file("kernel", _poke(offset, fmt, value)())
        # Not relocatable, so that an address that cannot be used is not merely avoided.
        if offset == 0x258:
            with open(kernel, "r+b") as f:
                f.seek(0x234)
                f.write(b"\0")
        return kernel_only(kernel, "--initrd", vmm.INITRD, "--memory", "1G", "--append", "console=ttyS0")

    row("kernel-header-" + _name, FAILED, ("" if _name.startswith("initrd") else "/kernel", _reason, _advice), _argv)

# Initramfs. Its content is the guest's business; that it fits is ours.

row("initrd-missing", FAILED, ("the initrd /no-such-initrd", "No such file", READABLE), kernel_only(vmm.KERNEL, "--initrd", "/no-such-initrd"))
row("initrd-directory", FAILED, ("the initrd /.*initrd-directory", "is a directory", "name a file"), lambda t: kernel_only(vmm.KERNEL, "--initrd", t.directory))
row("initrd-endless", FAILED, ("the initrd /dev/zero", "is not a regular file", COPY_INTO_ONE), kernel_only(vmm.KERNEL, "--initrd", "/dev/zero"))
row("initrd-empty", FAILED, ("the initrd /.*initrd", "is empty", AGAIN), with_initrd(b""))


@test("bad-initrd-oversized", timeout=20, on=GUISE)
def bad_initrd_oversized(t):
    big = t.path("initrd")
    with open(big, "wb") as f:
        f.truncate(3 << 30)
    expect_refusal(t, kernel_only(vmm.KERNEL, "--initrd", big, "--memory", "512M"), FAILED, "/initrd: ", "no room for the initrd of 3145728 KiB", "more with --memory")


@test("bad-initrd-garbage", timeout=60)
def bad_initrd_garbage(t):
    """Random bytes for an initramfs: the guest says so itself and panics; the machine ends as it was told to."""
    m = t.start(initrd=t.file("initrd", os.urandom(100000)), append="panic=-1", no_reboot=True)
    t.equal(m.wait(), 0, "exit status")
    t.check("Kernel panic - not syncing" in m.text, "no panic on the console")


# Disks

row("disk-missing", FAILED, ("--disk: disk '/no-such-disk'", "no such file", "truncate -s 10G /no-such-disk"), run("--disk", "/no-such-disk"))
row("disk-no-value", USAGE, ("--disk", "needs a value", "see: --disk help"), run("--disk"))
row("disk-empty-name", USAGE, ("--disk", "needs a value", "see: --disk help"), run("--disk", ""))
row("disk-directory", FAILED, ("--disk: disk '[^']*disk-directory", "is a directory", "name an image file"), lambda t: run("--disk", t.directory))
row("disk-empty", FAILED, ("--disk: disk '[^']*/disk'", "is empty", "give it a size"), with_disk(b""))
row("disk-part-of-a-sector", FAILED, ("--disk: disk '[^']*/disk'", "100 bytes, is not a multiple of 512", "extend it with"), with_disk(b"x" * 100))
row("disk-key", USAGE, ("--disk", 'does not take "readnoly"', 'did you mean "readonly"'), with_disk(bytes(4096), ",readnoly"))
row("disk-key-far", USAGE, ("--disk", 'does not take "xyzzy"', "see: --disk help"), with_disk(bytes(4096), ",xyzzy=1"))
row("disk-cache", USAGE, ("--disk,cache: ", '"directsync" is not possible', "choose one of: writeback"), with_disk(bytes(4096), ",cache=directsync"))
row("disk-format", USAGE, ("--disk: disk '[^']*/disk'", "image format 'floppy' is not supported", "qemu-img convert -O raw"), with_disk(bytes(4096), ",format=floppy"))
row("disk-serial-long", USAGE, ("--disk: ", "serial 'x+' is longer than 20", HELP_RUN), with_disk(bytes(4096), ",serial=" + "x" * 21))
row("disk-character-device", FAILED, ("--disk: disk '/dev/zero'", "is neither a file nor a block device", "name one of these"), run("--disk", "/dev/zero"))


@test("bad-disk-fifo", timeout=20, on=GUISE)
def bad_disk_fifo(t):
    fifo = t.path("fifo")
    os.mkfifo(fifo)
    expect_refusal(t, run("--disk", fifo), FAILED, "--disk: disk '/.*/fifo'", "is neither a file nor a block device", "name one of these")


@test("bad-disk-too-many", timeout=20, on=GUISE)
def bad_disk_too_many(t):
    options = []
    for i in range(100):
        options += ["--disk", t.file(f"disk{i}", bytes(4096))]
    expect_refusal(t, run(*options), USAGE, "--disk: ", "more than .* device options", HELP_RUN)


@test("bad-disk-unwritable", timeout=20, on=GUISE)
def bad_disk_unwritable(t):
    """A disk that this user may only read: the message says so and names ,readonly."""
    disk = t.file("disk", bytes(1 << 20))
    os.chmod(disk, 0o444)
    os.chmod(t.directory, 0o755)
    # As root, by nobody, who may not be able to reach this directory.
    user = 65534 if os.geteuid() == 0 else None
    program, kernel = shutil.copy(t.options.guise, t.path("guise")), shutil.copy(vmm.KERNEL, t.path("kernel"))
    os.chmod(kernel, 0o644)
    m = t.spawn([program, "run", "--kernel", kernel, "--disk", disk], user=user)
    expect_one_message(t, m, FAILED, ("--disk: disk '[^']*/disk'", "cannot open for writing", "add ',readonly'"))


@test("bad-disk-in-use", timeout=40, on=GUISE)
def bad_disk_in_use(t):
    """Two machines, or one machine twice, on the same writable disk would destroy it."""
    disk = t.file("disk", bytes(1 << 20))
    parts = ("--disk: disk '[^']*/disk'", "in use by another VM or program", "give the disk to all of them with ',readonly'")
    expect_refusal(t, run("--disk", disk, "--disk", disk), FAILED, *parts)
    first = t.start_exec("echo holding; sleep 1000", disks=[(disk, False)])
    first.expect(r"holding\n")
    expect_refusal(t, run("--disk", disk), FAILED, *parts)
    expect_refusal(t, run("--disk", disk + ",readonly"), FAILED, *parts)


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
    t.equal(m.wait(), 0, "exit status")
    with open(disk, "rb") as f:
        t.check(f.read() == bytes(1 << 20), "console output was written to the disk")


@test("bad-address-space-limit", timeout=30, on=GUISE)
def bad_address_space_limit(t):
    """RLIMIT_AS is too small for the reservation: said clearly, with the limit's name."""
    m = t.spawn(["sh", "-c", 'ulimit -v 4000000; exec "$@"', "sh", t.options.guise, *run()])
    m.wait(15 * t.slow)
    if "Sanitizer" in m.errors:
        raise Skip("a sanitizer's own reservation fails first")
    expect_one_message(t, m, FAILED, ("", "cannot (reserve|map)", "ulimit -v"))


@test("bad-file-limit", timeout=30, on=GUISE)
def bad_file_limit(t):
    """No descriptors to be had, at every step of making a machine. (Three are too few to load the program's libraries.)"""
    argv = [t.options.guise, *run("--net", "user", "--disk", t.file("disk", bytes(4096)))]
    for n in range(4, 13):
        m = t.spawn(["sh", "-c", f'ulimit -n {n}; exec "$@"', "sh", *argv])
        expect_one_message(t, m, FAILED, ("", "Too many open files", "ulimit -n"))


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
    expect_one_message(t, m, FAILED, ("", "there is no default guest", "make guest, or name a kernel with --kernel"))


@test("bad-stopped-and-continued", timeout=60, on=GUISE)
def bad_stopped(t):
    """SIGSTOP for a while, then SIGCONT: the guest goes on, its clocks do not jump back."""
    m = t.start_exec("for i in $(seq 1 40); do cut -d' ' -f1 /proc/uptime; usleep 100000; done")
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
