# SPDX-License-Identifier: Apache-2.0
"""Other systems than the default guest's: Debian's kernel for real machines, the Xen hypervisor with that kernel above it, GNU Mach, memtest86+,
and Debian's 32-bit programs. tools/make-others.sh fetches the kernels, tools/make-rootdisk.sh --arch i386 makes the disk; without them these
tests are skipped."""

import base64
import hashlib
import math
import os
import re
import struct

import vmm
from harness import GUISE, Skip, test


def other(t, name):
    path = os.path.join(t.options.others, name)
    if not os.path.exists(path):
        raise Skip(f"{path} is not there: tools/make-others.sh fetches it")
    return path


def boot(t, **kw):
    """Starts a machine with this command line and no other."""
    return t.spawn(vmm.ARGV[t.options.vmm](t.program(), vmm.Config(engine=t.options.engine, **kw)))


def numbers(count):
    """What `seq 1 count | sha256sum` prints."""
    text = "".join(f"{i}\n" for i in range(1, count + 1))
    return hashlib.sha256(text.encode()).hexdigest() + "  -\n"


def modules(t, cpus):
    """The kernel for real machines with its own modules: disk and network work, nothing complains."""
    disk = t.file("disk", os.urandom(1 << 20))
    with open(disk, "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    output = t.run(
        "uname -r; nproc; sha256sum < /dev/vda; ip -4 -o a; lsmod | cut -d' ' -f1 | grep virtio | sort | xargs; seq 1 100000 | sha256sum; dmesg -r",
        kernel=other(t, "vmlinuz"),
        initrd=other(t, "initrd.img"),
        cpus=cpus,
        disks=[(disk, True)],
        net="user",
    )
    lines = output.splitlines()
    t.check(re.fullmatch(r"\d+\.\d+\.\d+-\d+-amd64", lines[0]), lines[0])
    t.equal(lines[1:3], [str(cpus), digest + "  -"], "CPUs and disk")
    t.check("10.0.2.15/24" in output, output)
    t.check(re.search(r"^virtio.*virtio_blk.*virtio_net.*virtio_pci\b", output, re.M), output)
    t.check(numbers(100000) in output, output)
    errors = [line for line in lines if re.match(r"<[0-3]>", line)]
    t.equal(errors, [], "messages of level error and above")


@test("others-kernel", timeout=120)
def kernel(t):
    modules(t, 1)


@test("others-kernel-smp", timeout=180)
def kernel_smp(t):
    modules(t, 4)


def xen(t, cpus):
    """Xen, entered by multiboot, runs Linux above it as its first domain: ring 1 and ring 3 are one in 64-bit code, page tables are Xen's."""
    script = "cat /sys/hypervisor/type; nproc; seq 1 100000 | sha256sum; sha256sum < /dev/vda; ip -4 -o a"
    disk = t.file("disk", os.urandom(1 << 20))
    with open(disk, "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    encoded = base64.b64encode(script.encode()).decode()
    m = boot(
        t,
        kernel=other(t, "xen"),
        initrd=f"{other(t, 'vmlinuz')} console=hvc0 quiet guise.exec={encoded},{other(t, 'initrd.img')}",
        append="console=com1 com1=115200,8n1 dom0_mem=512M noreboot",
        memory="1G",
        cpus=cpus,
        disks=[(disk, True)],
        net="user",
    )
    m.expect(r"\(XEN\) Xen version 4\.")
    m.expect(rf"\(XEN\) Brought up {cpus} CPUs")
    m.expect(r"guise: exec\n")
    begin = m.mark
    end = m.expect(r"guise: exec status 0\n")
    output = m.text[begin : end.start()]
    t.check(output.startswith(f"xen\n{cpus}\n" + numbers(100000) + digest), output)
    t.check("10.0.2.15/24" in output, output)
    m.expect(r"\(XEN\) Entering ACPI S5 state")
    t.equal(m.wait(), 0, "exit status")
    t.check(not re.search(r"\(XEN\).*(panic|FATAL|BUG|Xen call trace)", m.text), "Xen complains")


# Not in QEMU 7.2's TCG: there the first domain's kernel crashes before its first line.
@test("others-xen", timeout=180, on=GUISE)
def xen_one(t):
    xen(t, 1)


@test("others-xen-smp", timeout=240, on=GUISE)
def xen_smp(t):
    xen(t, 2)


def elf32(code, at):
    """A static 32-bit program of nothing but this code."""
    header = b"\x7fELF\1\1\1" + bytes(9) + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, at + 0x54, 0x34, 0, 0, 0x34, 0x20, 1, 0, 0, 0)
    size = 0x54 + len(code)
    return header + struct.pack("<8I", 1, 0, at, at, size, size, 5, 0x1000) + code


# Not in QEMU: its multiboot loader refuses 64-bit ELF.
@test("others-gnumach", timeout=60, on=GUISE)
def gnumach(t):
    """GNU Mach makes a task of a multiboot module and lets it run."""
    task = t.file("task", elf32(b"\xeb\xfe", 0x8048000))
    m = boot(t, kernel=other(t, "gnumach"), initrd=f"{task} task $(task-create) $(task-resume)", append="console=com0", memory="256M")
    m.expect(r"GNU Mach 1\.")
    m.expect(r"task loaded: ")
    m.expect(r"\nstart ")
    t.check("panic" not in m.text, "Mach gave up")


@test("others-memtest", timeout=240)
def memtest(t):
    """memtest86+ on four CPUs: its first tests find no error."""
    m = boot(t, kernel=other(t, "memtest"), initrd=None, append="console=ttyS0,115200", memory="64M", cpus=4)
    m.expect(r"CPU: 4 Cores 4 Threads\s+SMP: 4T")
    m.expect(r"#5 ")
    t.check(re.search(r"Errors: 0\b", m.text), "no count of errors")
    t.check(not re.search(r"Errors: [1-9]", m.text), "errors were found")


I386_C = r"""
#include <math.h>
#include <stdio.h>
int main(void)
{
    unsigned long long a = 0, b = 1;
    double s = 0;
    for (int i = 0; i < 90; i++) {
        unsigned long long c = a + b;
        a = b;
        b = c;
        s += sin(i) / (1 + i);
    }
    printf("%llu %.12g %zu\n", a, s, sizeof(long));
}
"""


@test("others-i386", timeout=900)
def i386(t):
    """All programs are 32-bit, under the 64-bit kernel: a compiler, an interpreter, cryptography."""
    image = os.path.join(vmm.GUEST, "debian-i386.img") if t.options.i386 is None else t.options.i386
    if not os.path.exists(image):
        raise Skip(f"{image} is not there: tools/make-rootdisk.sh --arch i386 --output {image} makes it")
    script = f"""cd /tmp; file -bL /usr/bin/python3 /usr/bin/openssl | cut -c1-10
seq 1 100000 | openssl sha256 -r | cut -c1-64
seq 1 1000 | openssl enc -aes-256-cbc -pbkdf2 -k pw | openssl enc -d -aes-256-cbc -pbkdf2 -k pw | openssl sha256 -r | cut -c1-64
cat > f.c <<'END'{I386_C}END
gcc -O2 -o f f.c -lm && ./f
python3 -c 'import hashlib, math, sys; print(sys.maxsize, math.factorial(300) % 1000003, hashlib.sha256(b"x" * 100000).hexdigest())'
dmesg -l emerg,alert,crit,err"""
    encoded = base64.b64encode(script.encode()).decode()
    stem = image[: -len(".img")]
    m = boot(
        t,
        kernel=stem + "-vmlinuz",
        initrd=stem + "-initrd.img",
        append=f"root=/dev/vda ro console=ttyS0 quiet init=/usr/local/sbin/guise-exec guise.exec={encoded}",
        memory="1G",
        disks=[(image, True)],
    )
    t.equal(m.wait(), 0, "exit status")
    status, output = vmm.Exec.result(m.text)
    t.equal(status, 0, "status")
    wanted = ["ELF 32-bit", "ELF 32-bit", numbers(100000)[:64], numbers(1000)[:64], "2880067194370816120 0.542671489987 4"]
    wanted.append(f"{2**31 - 1} {math.factorial(300) % 1000003} {hashlib.sha256(b'x' * 100000).hexdigest()}")
    t.equal(output.splitlines(), wanted, "results")
