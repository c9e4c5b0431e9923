# SPDX-License-Identifier: Apache-2.0
"""Disks: the same bytes on both sides, read-only means read-only, a file system that this host's fsck accepts."""

import hashlib
import os
import re
import shutil
import subprocess

from harness import GUISE, Skip, test


def _digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@test("disk-read", timeout=90)
def disk_read(t):
    disk = t.file("disk", os.urandom(t.mib(48)))
    output = t.run("sha256sum < /dev/vda; dd if=/dev/vda bs=4k iflag=direct 2>/dev/null | sha256sum", disks=[(disk, False)])
    t.equal(output, (_digest(disk) + "  -\n") * 2, "digests, buffered and direct")


@test("disk-write", timeout=90)
def disk_write(t):
    disk = t.file("disk", bytes(t.mib(32)))
    output = t.run(f"head -c {t.mib(32)} /dev/urandom | tee /dev/vda | sha256sum; sync", disks=[(disk, False)])
    t.equal(output, _digest(disk) + "  -\n", "digest")


@test("disk-sectors", timeout=90)
def disk_sectors(t):
    """Single sectors at odd places, written directly, past 4 GiB too."""
    disk = t.path("disk")
    with open(disk, "wb") as f:
        f.truncate(5 << 30)
    places = (0, 1, 7, 63, 2047, 8388607, 8388608, 8388609, (5 << 21) - 1)
    script = "".join(f"(echo sector {p}; head -c 512 /dev/zero) | head -c 512 | dd of=/dev/vda bs=512 seek={p} conv=notrunc oflag=direct 2>/dev/null\n" for p in places)
    t.run(script + "sync", disks=[(disk, False)])
    with open(disk, "rb") as f:
        for p in places:
            f.seek(p * 512)
            text = b"sector %d\n" % p
            t.equal(f.read(512), text + bytes(512 - len(text)), f"sector {p}")
    t.check(os.stat(disk).st_blocks * 512 < 1 << 20, "the sparse file was filled")


@test("disk-uncached", timeout=90, on=GUISE)
def disk_uncached(t):
    """cache=none: what is written by large and by single sectors arrives, and is read back, on the host and in the guest."""
    disk = t.file("disk", os.urandom(16 << 20))
    before = _digest(disk)
    output = t.run(
        "dd if=/dev/vda bs=1M iflag=direct 2>/dev/null | sha256sum; dd if=/dev/urandom bs=1M count=8 2>/dev/null | tee /tmp/x | dd of=/dev/vda bs=1M iflag=fullblock oflag=direct conv=notrunc 2>/dev/null\n"
        "dd if=/tmp/x of=/dev/vda bs=512 count=3 seek=16387 oflag=direct conv=notrunc 2>/dev/null; sync; dd if=/dev/vda bs=64k iflag=direct 2>/dev/null | sha256sum",
        extra=["--disk", disk + ",cache=none"],
    )
    lines = output.splitlines()
    t.equal(lines[0], before + "  -", "digest before")
    t.equal(lines[1], _digest(disk) + "  -", "digest after")
    t.check(lines[1] != lines[0], "nothing was written")


@test("disk-parallel", timeout=120)
def disk_parallel(t):
    """Many requests in flight; every block holds its own number."""
    disk = t.file("disk", bytes(16 << 20))
    t.run(
        "for j in 0 1 2 3; do (i=0; while [ $i -lt 64 ]; do n=$((i * 4 + j)); (echo block $n; head -c 65536 /dev/zero) | head -c 65536 |\n"
        "dd of=/dev/vda bs=64k seek=$n conv=notrunc iflag=fullblock 2>/dev/null; i=$((i + 1)); done) & done; wait; sync",
        disks=[(disk, False)],
    )
    with open(disk, "rb") as f:
        for n in range(256):
            text = b"block %d\n" % n
            t.equal(f.read(65536), text + bytes(65536 - len(text)), f"block {n}")


@test("disk-ext4", timeout=120)
def disk_ext4(t):
    """mke2fs here, mounted and filled there, checked and read here."""
    mke2fs = shutil.which("mke2fs", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if not mke2fs:
        raise Skip("mke2fs is not installed (e2fsprogs)")
    disk = t.path("disk")
    with open(disk, "wb") as f:
        f.truncate(64 << 20)
    subprocess.run([mke2fs, "-q", "-t", "ext4", "-F", disk], check=True)
    output = t.run(
        "grep ' /mnt ' /proc/mounts && cd /mnt && mkdir -p a/b && cp /bin/busybox a/b/ && for i in $(seq 1 500); do echo $i > a/$i; done; ln -s a/b l\n"
        "seq 1 100000 > big; mv big bigger; rm a/250; sync; sha256sum < bigger; sha256sum < a/b/busybox",
        disks=[(disk, False)],
    )
    t.check("/dev/vda /mnt ext4 rw" in output, "not mounted:\n" + output)
    tools = os.path.dirname(mke2fs)
    check = subprocess.run([os.path.join(tools, "e2fsck"), "-f", "-n", disk], capture_output=True, text=True, check=False)
    t.equal(check.returncode, 0, "e2fsck: " + check.stdout)
    for digest, name in zip(re.findall(r"\b[0-9a-f]{64}\b", output), ("bigger", "a/b/busybox")):
        content = subprocess.run([os.path.join(tools, "debugfs"), "-R", f"cat {name}", disk], capture_output=True, check=True).stdout
        t.equal(hashlib.sha256(content).hexdigest(), digest, name)
    listing = subprocess.run([os.path.join(tools, "debugfs"), "-R", "ls -l a", disk], capture_output=True, text=True, check=True).stdout
    t.equal(len(re.findall(r"^ *\d+ +100644", listing, re.M)), 499, "files in a/")


@test("disk-readonly")
def disk_readonly(t):
    disk = t.file("disk", os.urandom(4 << 20))
    os.chmod(disk, 0o444)
    before = _digest(disk)
    output = t.run("cat /sys/block/vda/ro; echo x | dd of=/dev/vda 2>&1; sha256sum < /dev/vda", disks=[(disk, True)])
    t.check(output.startswith("1\n"), "the guest does not know that the disk is read-only:\n" + output)
    t.check(before in output, "wrong content")
    t.equal(_digest(disk), before, "digest after the write")


@test("disk-order")
def disk_order(t):
    disks = [(t.file(f"disk{i}", b"disk %d\n" % i + bytes((i + 1) << 20)), i == 1) for i in range(4)]
    for path, _ in disks:
        with open(path, "r+b") as f:
            f.truncate(os.path.getsize(path) // 4096 * 4096)
    output = t.run("for d in a b c d; do head -n 1 /dev/vd$d; cat /sys/block/vd$d/size /sys/block/vd$d/ro; done", disks=disks)
    t.equal(output.split("\n")[:-1], [line for i in range(4) for line in (f"disk {i}", str((i + 1) * 2048), str(int(i == 1)))], "disks")


@test("disk-end")
def disk_end(t):
    """Requests at and past the end fail; the disk goes on working."""
    disk = t.file("disk", os.urandom(1 << 20))
    output = t.run("dd if=/dev/vda bs=512 skip=2047 2>/dev/null | wc -c; dd if=/dev/zero of=/dev/vda bs=512 seek=2048 count=1 2>&1 | head -n 1; dd if=/dev/vda bs=1M 2>/dev/null | sha256sum", disks=[(disk, False)])
    lines = output.splitlines()
    t.equal(lines[0], "512", "bytes of the last sector")
    t.check("No space left" in lines[1], lines[1])
    t.equal(lines[2], _digest(disk) + "  -", "digest")
