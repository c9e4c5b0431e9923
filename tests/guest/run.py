#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run one bare-metal guest, on an engine of Guise or in QEMU, and judge it by what it writes to its exit port.

Exit status: 0 passed, 77 skipped (the guest or the engine says it cannot run here), 1 failed.
Guests that end otherwise than through their exit port are listed in EXPECT, those that need a disk in DISK.
"""
import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

PASS, FAIL, SKIP = 0x10, 0x11, 0x12
SKIPPED = 77

# Guests that do not end through the exit port: what their end looks like to the caller (guise, qemu).
EXPECT = {"triple_fault": {"guise": 1, "qemu": 0}}

# QEMU 7.2 now and then loses the flags of an instruction that changes its own block (two of forty runs): here it has one instruction a block.
QEMU_MORE = {"smc_stores": ["-singlestep"]}

SECTOR = 512


def numbered_functions():
    """64 sectors, each a function that returns its number: mov eax, n; ret ... ret."""
    return b"".join((b"\xb8" + n.to_bytes(4, "little")).ljust(SECTOR, b"\xc3") for n in range(64))


# Guests that need devices, and what their disk holds.
DISK = {"virtio_garbage": bytes(1 << 20), "msix": bytes(1 << 20), "smc_dma": numbered_functions()}

# Guests whose user code engine direct has to execute directly, or the test says nothing about it.
DIRECT = {"debug", "exceptions", "features", "flags_io", "gates", "halves", "paging_matrix", "paging_rights", "segments", "shared_lookups",
          "smc_balloon", "smc_stores", "syscalls", "user_mode"}

# Guests that are about several processors.
CPUS = {"smp": 4, "smp_x2apic": 4}

# Guests that give memory away.
BALLOON = {"smc_balloon"}

# Guests that reset the machine and go on.
REBOOTS = {"reset"}


def status_of(value):
    return value << 1 | 1


def disk_image(args, scratch):
    content = DISK.get(Path(args.guest).stem)
    if content is None:
        return None
    image = Path(scratch, "disk")
    image.write_bytes(content)
    return image


def append_of(args):
    """What a guest cannot find out by itself."""
    return " ".join((["engine=kvm"] if args.engine == "kvm" else []) + args.append)


def guise_command(args, console, disk):
    devices = ["--disk", str(disk)] if disk else ["--net", "none"]
    devices += ["--balloon", "on"] if Path(args.guest).stem in BALLOON else []
    devices += [] if Path(args.guest).stem in REBOOTS else ["--no-reboot"]
    devices += ["--cpu", args.cpu] if args.cpu else []
    return [args.guise, "run", "--engine", args.engine, "--kernel", args.guest, "--memory", "128M", "--cpus", str(args.cpus),
            "--append", append_of(args), "--exit-port", "0xf4", "--console", f"file={console}", "--timeout", str(args.timeout), "--stats",
            *devices]


def qemu_command(args, console, disk):
    name = Path(args.guest).stem
    devices = QEMU_MORE.get(name, []) + ([] if name in REBOOTS else ["-no-reboot"])
    if disk:
        devices += ["-drive", f"file={disk},format=raw,if=none,id=d", "-device", "virtio-blk-pci,drive=d,disable-legacy=on",
                   "-device", "virtio-rng-pci,disable-legacy=on"]
    return [args.qemu, "-accel", "tcg", "-cpu", "max", "-machine", "q35", "-m", "128", "-smp", str(args.cpus), "-nodefaults", "-display", "none",
            "-serial", f"file:{console}", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", *devices, "-kernel", args.guest]


def run(command, limit):
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=limit + 10)
        return done.returncode, done.stderr
    except subprocess.TimeoutExpired:
        return "no end", ""


def unusable(args, status, stderr):
    """This host refuses the engine: a matter of the host, where others may do without it."""
    refusals = {"kvm": "--engine kvm:", "direct": "a process that is to execute guest code directly"}
    return args.engine in refusals and status in (1, 125) and refusals[args.engine] in stderr.lower()


def ran_directly(stderr):
    """What --stats counts."""
    return any(line.split()[0] == "direct_runs" and int(line.split()[1]) > 0 for line in stderr.splitlines() if line.strip())


def readable(text):
    """The last lines, without what garbage on the serial line would do to a terminal."""
    lines = ["".join(c if c.isprintable() else "." for c in line)[:400] for line in text.splitlines()]
    return "\n".join(lines[-20:])


def verdict(args, status, stderr):
    name = Path(args.guest).stem
    expected = EXPECT.get(name, {}).get("qemu" if args.qemu else "guise", status_of(PASS))
    if status == status_of(SKIP) or (not args.qemu and unusable(args, status, stderr)):
        return SKIPPED
    if args.engine == "direct" and name in DIRECT and not ran_directly(stderr):
        print("no user code ran directly")
        return 1
    return 0 if status == expected else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--guise")
    parser.add_argument("--qemu")
    parser.add_argument("--engine", default="bt")
    parser.add_argument("--cpu", help="CPU model")
    parser.add_argument("--cpus", type=int, help="default: 1, or what the guest is about")
    parser.add_argument("--timeout", type=int, default=100)
    parser.add_argument("--append", action="append", default=[], help="cpu=tcg: QEMU's CPU is beneath the engine; loops=N")
    parser.add_argument("guest")
    args = parser.parse_args()
    args.cpus = args.cpus or CPUS.get(Path(args.guest).stem, 1)
    with tempfile.TemporaryDirectory() as scratch:
        console = Path(scratch, "console")
        disk = disk_image(args, scratch)
        command = qemu_command(args, console, disk) if args.qemu else guise_command(args, console, disk)
        status, stderr = run(command, args.timeout)
        result = verdict(args, status, stderr)
        if console.exists():
            print(readable(console.read_text(errors="replace")))
        print(readable(stderr), file=sys.stderr)
        print(f"status {status}: {'passed' if result == 0 else 'skipped' if result == SKIPPED else 'FAILED'}")
    return result


if __name__ == "__main__":
    sys.exit(main())
