#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs bare-metal guests (tests/guest) on the KVM engine, as many as may in one machine of tools/nested.py, each with a limit of its own. How a guest is
run and judged is said in tests/guest/run.py, which runs the other engines. Speaks TAP: a test for each guest.

    tests/kvm/guests.py --guise build/guise [--only 'paging_*'] build/tests/guest/*.elf
"""

import argparse
import fnmatch
import importlib.util
import os
import re
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tools")]

import nested  # noqa: E402
import vmm  # noqa: E402

_spec = importlib.util.spec_from_file_location("guest_run", ROOT / "tests" / "guest" / "run.py")
guest = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(guest)

# What cannot pass there, and why.
NO_DEBUG_REGISTERS = "QEMU forgets what DR7 says when it enters a guest"
KVM_SWITCHES = "KVM switches tasks itself, and by rules of its own"
NO_XCR0 = "QEMU does not tell KVM of XSETBV"
SKIP = {
    "announced": NO_XCR0,
    "debug": NO_DEBUG_REGISTERS,
    "watchpoints": NO_DEBUG_REGISTERS,
    "double_faults": "QEMU does not remember that an exception was injected: a fault on the way to its handler is no double fault",
    "io_garbage": "KVM cannot emulate x87 instructions that go to device registers",
    "reset": "QEMU ends as the guest resets",
    "table_in_device": "KVM has no descriptor tables in device registers",
    "tasks_events": KVM_SWITCHES,
    "tasks_refused": KVM_SWITCHES,
    "vector_modes": NO_XCR0,
    "xsave": NO_XCR0,
}

# Where QEMU's nested paging is not to be used: it goes on with code that has just changed itself.
SHADOW_PAGING = ("smc_stores", "user_mode")

# How often a check is repeated at most; less where one takes long.
LOOPS = {"ioapic_level": 20, "paging_reserved": 20, "smc_balloon": 10, "smp": 20, "stepping": 20, "timers": 20}
FEW = 200

CPUS = 2  # a guest's: more would wait for each other in vain, as theirs spin
# Whose CPUs wait for each other all the time: they take turns as the machine's kernel has it, and get three times as long.
SPINNING = ("smp",)
PLACE = "guests"
BEGIN = re.compile(r"nested: (\S+) begins\n")
RESULT = re.compile(r"nested: (\S+) ended (\d+) after (\d+) s\n")


def name_of(elf):
    return Path(elf).stem


class Case:
    """A guest, and the lines of shell that run it."""

    def __init__(self, elf, options):
        self.elf = elf
        self.name = name_of(elf)
        self.engine = options.engine
        self.kvm = "npt=0" if self.name in SHADOW_PAGING else ""
        self.timeout = options.timeout * (3 if self.name in SPINNING else 1)
        self.loops = LOOPS.get(self.name, FEW)
        self.cpus = options.cpus or min(guest.CPUS.get(self.name, 1), CPUS)

    def files(self):
        """{path in the machine: (mode, bytes)}"""
        files = {f"{PLACE}/{self.name}.elf": (0o644, Path(self.elf).read_bytes())}
        if self.name in guest.DISK:
            files[f"{PLACE}/{self.name}.disk"] = (0o644, guest.DISK[self.name])
        return files

    def command(self):
        args = argparse.Namespace(guise="guise", engine=self.engine, guest=f"/{PLACE}/{self.name}.elf", cpus=self.cpus, timeout=self.timeout,
                                  cpu=None, append=["cpu=tcg", f"loops={self.loops}"])
        disk = f"/{PLACE}/{self.name}.disk" if self.name in guest.DISK else None
        return guest.guise_command(args, "console", disk)

    def script(self):
        """A program that does not keep to its limit is killed. What is no text would do things to the console."""
        run = f"timeout -s KILL {self.timeout + 5} {shlex.join(self.command())}"
        return (f"echo 'nested: {self.name} begins'\n"
                f"rm -f console; begin=$(date +%s); {run} </dev/null >/dev/null 2>errors; status=$?\n"
                f"cat console errors 2>/dev/null | tr -cd '\\n -~' | cut -c -400 | tail -n 30\n"
                f"echo \"nested: {self.name} ended $status after $(($(date +%s) - begin)) s\"\n")

    def verdict(self, status, output):
        args = argparse.Namespace(guest=self.elf, qemu=None, engine=self.engine)
        return guest.verdict(args, status, output)


class Report:
    """Finds the ends of guests in what the machines write, and says how they went."""

    def __init__(self, cases):
        self.waiting = {case.name: case for case in cases}
        self.text = ""
        self.number = 0
        self.failed = 0

    def add(self, text):
        self.text += text
        while found := RESULT.search(self.text):
            case = self.waiting.pop(found[1], None)
            if case:
                self._judge(case, int(found[2]), f"{found[3]} s", self.text[: found.start()])
            self.text = self.text[found.end() :]

    def _judge(self, case, status, duration, output):
        result = case.verdict(status, output)
        if result == guest.SKIPPED:
            self.line("ok", case.name, "# SKIP it says that it cannot run here")
        elif result == 0:
            self.line("ok", case.name, f"({duration})")
        else:
            self.fail(case.name, f"status {status} after {duration}", output)

    def line(self, outcome, name, more):
        self.number += 1
        print(f"{outcome} {self.number} - {name} {more}", flush=True)

    def fail(self, name, why, output):
        self.failed += 1
        self.line("not ok", name, "")
        for line in [why, *output.splitlines()[-30:]]:
            print(f"# {line}", flush=True)

    def next_machine(self):
        """Cases that may share one."""
        cases = list(self.waiting.values())
        return [case for case in cases if case.kvm == cases[0].kvm]

    def out_of_time(self):
        for name in self.waiting:
            self.fail(name, "there was no time left for it", "")

    def machine_ended(self, errors):
        """It is the fault of the test that ran, or of the first that should have."""
        begun = BEGIN.findall(self.text)
        name = begun[-1] if begun else next(iter(self.waiting))
        del self.waiting[name]
        self.fail(name, f"the machine ended: {errors.strip() or 'in silence'}", self.text)
        self.text = ""


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--guise", required=True)
    p.add_argument("--engine", default="kvm")
    p.add_argument("--only", default="*", help="names to run, comma-separated, * allowed")
    p.add_argument("--cpus", type=int, help="default: what the guest is about")
    p.add_argument("--timeout", type=int, default=40, help="seconds for each guest (default 40)")
    p.add_argument("--limit", type=float, default=300, help="seconds for all of it (default 300)")
    p.add_argument("--machine-cpu", default=nested.CPU, help=f"QEMU's CPU model (default {nested.CPU})")
    p.add_argument("--skipped-too", action="store_true", help="also what cannot pass")
    p.add_argument("guests", nargs="+", metavar="ELF")
    return p.parse_args()


def select(options):
    patterns = options.only.split(",")
    return [Case(elf, options) for elf in options.guests if any(fnmatch.fnmatch(name_of(elf), p) for p in patterns)]


def run_in_one_machine(report, options, deadline):
    """As many as it survives. QEMU, too, may die of a guest."""
    files = {}
    cases = report.next_machine()
    for case in cases:
        files.update(case.files())
    nested.add(files, options.guise)
    script = "cd /tmp\n" + "".join(case.script() for case in cases)
    with nested.Machine(script, files, limit=max(deadline - time.monotonic(), 1), cpu=options.machine_cpu, kvm=cases[0].kvm) as machine:
        nested.follow(machine.process, report.add)
        if any(case.name in report.waiting for case in cases):
            report.machine_ended(machine.process.errors)


def main():
    options = parse()
    cases = select(options)
    chosen = [case for case in cases if options.skipped_too or case.name not in SKIP]
    report = Report(chosen)
    deadline = time.monotonic() + options.limit
    print(f"1..{len(cases)}", flush=True)
    for case in cases:
        if case not in chosen:
            report.line("ok", case.name, f"# SKIP {SKIP[case.name]}")
    try:
        while report.waiting and time.monotonic() < deadline:
            run_in_one_machine(report, options, deadline)
        report.out_of_time()
    except nested.Missing as e:
        if shutil.which("qemu-system-x86_64"):
            print(f"Bail out! {e}")
            return 1
        for case in chosen:
            report.line("ok", case.name, f"# SKIP {e}")
    return 0


def end(number, _frame):
    vmm.kill_all()
    os._exit(128 + number)


if __name__ == "__main__":
    for caught in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(caught, end)
    sys.exit(main())
