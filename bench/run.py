#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Native, Guise, Guise on KVM where there is one, and QEMU TCG in one run: the same programs, kernel and initramfs, medians of interleaved rounds.

Parts: boot; programs (bench/programs, natively as they are, in a machine with this host's C library, from an initramfs appended to the default
guest's); growth and timer (in bench/programs, too: where speed falls off when code, data or processes become many; how late a program wakes up);
disk and net (bench/programs/disk.c and net.c on a file and a server of this host); rootdisk (whole programs of a Debian disk, natively in
a chroot of a copy: `make bench` makes the disk, as root).
The guest's own clock times each part, and every machine's clock is checked against this host's; results are compared between all of them.
Tables go to standard output; figures, charts and the history of all runs to bench/results.
"""

import argparse
import datetime
import os
import re
import shutil
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path[:0] = [HERE, os.path.join(ROOT, "tools")]

import figures  # noqa: E402
import runners  # noqa: E402
import vmm  # noqa: E402

RUNNERS = ("native", "guise", "kvm", "qemu")
PARTS = ("boot", "programs", "growth", "timer", "disk", "net", "rootdisk")
LONG_PARTS = ("growth", "rootdisk")
BOOTS = 3  # a round: they are short


def say(text):
    print(f"bench/run.py: {text}", file=sys.stderr, flush=True)


def describe_host(options):
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
        cpuinfo = f.read()
    model = re.search(r"^model name\s*: (.*)$", cpuinfo, re.M)
    with open("/proc/meminfo", encoding="ascii") as f:
        memory = int(re.search(r"^MemTotal: +(\d+)", f.read())[1]) / 2**20

    def first_line(*argv):
        try:
            return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.partition("\n")[0]
        except OSError:
            return "not installed"

    release = os.path.join(vmm.GUEST, "release")
    kernel = "unknown"
    if os.path.exists(release):
        with open(release, encoding="ascii") as f:
            kernel = f.read().strip()
    return {
        "cpu": model[1] if model else "unknown",
        "cpus": os.cpu_count(),
        "virtual": re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.M) is not None,
        "memory_gib": round(memory, 1),
        "kernel": os.uname().release,
        "io_uring": runners.host_has_io_uring(),
        "load": os.getloadavg()[0],
        "file_system": first_line("stat", "-f", "-c", "%T", HERE),
        "guise": first_line(options.guise, "--version"),
        "revision": first_line("git", "-C", ROOT, "describe", "--always", "--dirty"),
        "qemu": first_line(options.qemu, "--version"),
        "gcc": first_line(os.environ.get("CC", "gcc"), "--version"),
        "guest_kernel": kernel,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def names_of(known):
    def split(text):
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(known)}")
        return names

    return split


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--guise", default=os.path.join(ROOT, "build", "guise"))
    p.add_argument("--qemu", default=shutil.which("qemu-system-x86_64") or "qemu-system-x86_64")
    p.add_argument("--engine", help="engine of guise run")
    p.add_argument("--runners", type=names_of(RUNNERS), default=",".join(RUNNERS), help="which to run (all: %(default)s; kvm: Guise on it, where there is one)")
    p.add_argument("--parts", type=names_of(PARTS), help=f"what to measure (all: {','.join(PARTS)}; all but {' and '.join(LONG_PARTS)} with --quick)")
    p.add_argument("--rounds", type=int, help="rounds, of which medians are taken (5; 1 with --quick)")
    p.add_argument("--percent", type=int, help="amount of work (100; 20 with --quick)")
    p.add_argument("--quick", action="store_true", help="one round, a fifth of the work, neither growth nor root disk")
    p.add_argument("--rootdisk", help="Debian image (guest/out/debian-bench.img or debian.img); left out when it is not there")
    p.add_argument("--results", default=os.path.join(HERE, "results"), help="directory of figures, charts and history")
    options = p.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.percent = options.percent or (20 if options.quick else 100)
    options.parts = options.parts or [part for part in PARTS if part not in LONG_PARTS or not options.quick]
    return options


def find_rootdisk(options):
    """The image, or None after saying so."""
    paths = [options.rootdisk] if options.rootdisk else [os.path.join(vmm.GUEST, name) for name in ("debian-bench.img", "debian.img")]
    for path in paths:
        if os.path.exists(path):
            return os.path.abspath(path)
    say(f"no root disk ({' or '.join(os.path.relpath(p) for p in paths)}): its programs are left out; make bench makes it, as root")
    return None


def leave_kvm_out(options):
    """Where there is none, after saying so."""
    why_not = "kvm" in options.runners and runners.why_no_kvm(options.guise)
    if why_not:
        say(f"no figures of KVM: {why_not}")
        options.runners = [r for r in options.runners if r != "kvm"]


class Bench:
    """The parts; each is a method that does one round of it."""

    def __init__(self, options):
        self.options = options
        self.percent = options.percent
        self.native = "native" in options.runners
        self.machines = [
            runners.Runner(which, options.qemu if which == "qemu" else options.guise, options.engine) for which in RUNNERS[1:] if which in options.runners
        ]
        self.binaries = runners.compile_programs()
        self.figures = figures.Figures()
        self.image = find_rootdisk(options) if "rootdisk" in options.parts else None
        self.native_root = None
        if self.image and self.native:
            why_not = runners.NativeRoot.why_not()
            if why_not:
                say(f"no native figures of the root disk's programs: {why_not}")
            else:
                self.native_root = runners.NativeRoot(self.image)

    def _each(self, native, run):
        if self.native and native:
            self.figures.add("native", native())
        for machine in self.machines:
            self.figures.add(machine.which, run(machine))

    def boot(self):
        for _ in range(BOOTS):
            self._each(None, lambda m: m.boot())

    def programs(self):
        self._each(lambda: runners.native_programs(self.binaries, self.percent), lambda m: m.programs(self.binaries, self.percent))

    def growth(self):
        self._program("growth")

    def timer(self):
        self._program("timer")

    def _program(self, name):
        self._each(lambda: runners.native_program(self.binaries, name, self.percent), lambda m: m.own_part(self.binaries, name, self.percent))

    def disk(self):
        with runners.DiskFile(self.binaries, self.percent) as d:
            self._each(d.native, lambda m: d.measured(lambda seed: m.disk(self.binaries, d, self.percent, seed)))

    def net(self):
        with runners.NetServer(self.binaries) as server:
            self._each(lambda: server.native(self.percent), lambda m: m.net(self.binaries, server.port, self.percent))

    def rootdisk(self):
        if self.image:
            native = self.native_root and (lambda: self.native_root.run(self.percent))
            self._each(native, lambda m: m.rootdisk(self.image, self.percent))

    def run(self):
        for number in range(self.options.rounds):
            for part in self.options.parts:
                say(f"round {number + 1} of {self.options.rounds}: {part}")
                getattr(self, part)()


def main():
    options = arguments()
    wanted = {options.qemu if who == "qemu" else options.guise for who in options.runners if who != "native"}
    missing = sorted(path for path in wanted if not shutil.which(path))
    if missing:
        say(f"{' and '.join(missing)}: no such program; make builds Guise, tools/deps.sh bench installs QEMU")
        return 2
    leave_kvm_out(options)
    host = describe_host(options)
    if host["load"] > 0.5:
        say(f"the load of this host is {host['load']:.1f}: figures will be worse than they should be")
    # So that what runs is ended on the way out.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        bench = Bench(options)
        bench.run()
    except (figures.Wrong, vmm.VmmError) as error:
        say(error)
        return 1
    finally:
        vmm.kill_all()
    rows = list(bench.figures.rows())
    found = list(figures.groups(rows))
    description = {
        "host": host,
        "rounds": options.rounds,
        "percent": options.percent,
        "clock_ratio": {m.which: m.clock_ratios for m in bench.machines},
    }
    stem = figures.save(options.results, "quick" if options.quick else "full", description, rows, found)
    print(f"{host['cpu']}, {host['cpus']} CPUs, {host['memory_gib']} GiB, Linux {host['kernel']}; guest kernel {host['guest_kernel']}")
    print(f"{host['guise']}; {host['qemu']}; {host['gcc']}; {host['date']}; medians of {options.rounds}\n")
    print("\n".join(figures.table(rows, host["virtual"])) + "\n")
    print("\n".join(figures.group_table(found)))
    say(f"{os.path.relpath(stem)}.json, {os.path.relpath(stem)}.svg, {os.path.relpath(stem)}-history.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
