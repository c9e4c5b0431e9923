#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run one bare-metal guest, on an engine of Guise or in QEMU, and judge it by what it writes to its exit port.

Exit status: 0 passed, 77 skipped (the guest or the engine says it cannot run here), 1 failed.
A guest may name what it expects instead of a PASS in its file name's entry of EXPECT.
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


def status_of(value):
    return value << 1 | 1


def guise_command(args, console):
    return [args.guise, "run", "--engine", args.engine, "--kernel", args.guest, "--memory", "128M", "--cpus", str(args.cpus),
            "--exit-port", "0xf4", "--console", f"file={console}", "--no-reboot", "--timeout", str(args.timeout)]


def qemu_command(args, console):
    return [args.qemu, "-accel", "tcg", "-cpu", "max", "-machine", "q35", "-m", "128", "-smp", str(args.cpus), "-nodefaults", "-display", "none",
            "-no-reboot", "-serial", f"file:{console}", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", args.guest]


def run(command, limit):
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=limit + 10)
        return done.returncode, done.stderr
    except subprocess.TimeoutExpired:
        return "no end", ""


def kvm_unusable(args, status, stderr):
    return args.engine == "kvm" and status == 125 and "kvm" in stderr.lower()


def verdict(args, status, stderr):
    name = Path(args.guest).stem
    expected = EXPECT.get(name, {}).get("qemu" if args.qemu else "guise", status_of(PASS))
    if status == status_of(SKIP) or (not args.qemu and kvm_unusable(args, status, stderr)):
        return SKIPPED
    return 0 if status == expected else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--guise")
    parser.add_argument("--qemu")
    parser.add_argument("--engine", default="bt")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--timeout", type=int, default=100)
    parser.add_argument("guest")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        console = Path(scratch, "console")
        command = qemu_command(args, console) if args.qemu else guise_command(args, console)
        status, stderr = run(command, args.timeout)
        result = verdict(args, status, stderr)
        if console.exists():
            sys.stdout.write(console.read_text(errors="replace"))
        sys.stderr.write(stderr)
        print(f"status {status}: {'passed' if result == 0 else 'skipped' if result == SKIPPED else 'FAILED'}")
    return result


if __name__ == "__main__":
    sys.exit(main())
