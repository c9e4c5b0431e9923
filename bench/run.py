#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Native, Guise and QEMU TCG in one run: the same programs, kernel and initramfs, medians of interleaved rounds.

Programs (bench/programs) are compiled here; natively they run as they are, in a machine, with this host's C library, from an initramfs appended to
the default guest's. With a Debian root disk (make rootdisk) whole programs from it are measured too, natively in a chroot of a copy.
The guest's own clock times each part, and every machine's clock is checked against this host's; results are compared between all three.
The table goes to standard output; figures and a chart to bench/results.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path[:0] = [HERE, os.path.join(ROOT, "tools")]

import chart  # noqa: E402
import vmm  # noqa: E402

PROGRAMS = ("integer", "float", "memory", "calls", "system")
CFLAGS = ("-O2", "-ftree-vectorize", "-std=gnu17")
STATIC = ("system",)  # what it forks and starts is itself
OUT = os.path.join(HERE, "out")
RESULTS = os.path.join(HERE, "results")
# A guest's clock and ours may differ by console latency, and no more.
CLOCK_TOLERANCE = 0.03
CLOCK_SLACK = 0.25

TITLES = {
    "boot": "start to first line of /init",
    "getppid": "null system call",
    "pagefault": "page fault",
    "forkexec": "fork, exec and wait",
    "pipe": "pipe ping-pong",
    "memcpy": "memory copy, 64 MiB",
    "memcpy-small": "memory copy, 100-355 bytes",
    "chase": "pointer chase in DRAM",
    "fib": "calls and returns",
    "indirect": "indirect calls",
    "bytecode": "byte-code interpreter",
    "matrix": "matrix product",
    "x87": "x87",
}


class Wrong(Exception):
    """A program computed something wrong, or a clock is off."""


def compile_programs():
    os.makedirs(OUT, exist_ok=True)
    binaries = {}
    for name in PROGRAMS:
        source = os.path.join(HERE, "programs", name + ".c")
        binary = os.path.join(OUT, name)
        link = ["-static"] if name in STATIC else []
        subprocess.run([os.environ.get("CC", "gcc"), *CFLAGS, *link, "-o", binary, source, "-lm"], check=True)
        binaries[name] = binary
    return binaries


def libraries(binaries):
    """Paths of the shared libraries that the programs need, the loader among them."""
    found = set()
    for name in PROGRAMS:
        if name not in STATIC:
            text = subprocess.run(["ldd", binaries[name]], capture_output=True, text=True, check=True).stdout
            found.update(re.findall(r"(/\S+) \(0x", text))
    return sorted(found)


def parse(text, who):
    """{part: (nanoseconds per operation, result)} from `bench` lines."""
    wrong = re.search(r"^wrong (\S+)", text, re.M)
    if wrong:
        raise Wrong(f"{who}: {wrong[1]} computed a wrong result\n{text[-2000:]}")
    parts = {}
    for name, ns, operations, result in re.findall(r"^bench (\S+) (\d+) (\d+) (\d+)$", text, re.M):
        parts[name] = (int(ns) / int(operations), int(result))
    return parts


def native_round(binaries, percent):
    parts = {}
    for name in PROGRAMS:
        # One CPU, as the machines have.
        text = subprocess.run(["taskset", "-c", "0", binaries[name], str(percent)], capture_output=True, text=True, check=False).stdout
        parts.update(parse(text, f"native {name}"))
    return parts


def check_clock(machine, who):
    """Between the marks, the guest's clock must have gone as far as ours."""
    begin = re.search(r"^mark begin (\d+)\.(\d+)$", machine.text, re.M)
    end = re.search(r"^mark end (\d+)\.(\d+)$", machine.text, re.M)
    if not begin or not end:
        raise Wrong(f"{who}: the guest did not finish:\n{machine.text[-2000:]}\n{machine.errors[-2000:]}")
    guest = float(f"{end[1]}.{end[2]}") - float(f"{begin[1]}.{begin[2]}")
    host = machine.seen_at(r"\nmark end [\d.]+\n") - machine.seen_at(r"\nmark begin [\d.]+\n")
    if abs(guest - host) > CLOCK_SLACK + CLOCK_TOLERANCE * host:
        raise Wrong(f"{who}: {guest:.2f} s by the guest's clock were {host:.2f} s here")
    return guest / host


def spawn(which, options, config, limit):
    program = options.guise if which == "guise" else options.qemu
    return vmm.Process(vmm.ARGV[which](program, config), time.monotonic() + limit)


def machine_round(which, options, binaries, percent):
    """(parts, clock ratio) of one boot."""
    files = {}
    for name in PROGRAMS:
        with open(binaries[name], "rb") as f:
            files[f"bench/{name}"] = (0o755, f.read())
    for path in libraries(binaries):
        with open(path, "rb") as f:
            files[path.lstrip("/")] = (0o755, f.read())
    script = "echo mark begin $(cut -d' ' -f1 /proc/uptime)\n"
    script += "".join(f"/bench/{name} {percent} || exit 1\n" for name in PROGRAMS)
    script += "echo mark end $(cut -d' ' -f1 /proc/uptime)\n"
    config = vmm.Config(memory="1G", cpus=1, append="console=ttyS0 quiet", engine=options.engine if which == "guise" else None)
    vmm.Exec(script, OUT, files).apply(config)
    machine = spawn(which, options, config, 1800)
    try:
        machine.wait()
        parts = parse(machine.text, which)
        ratio = check_clock(machine, which)
    finally:
        machine.close()
        os.unlink(config.initrd)
    return parts, ratio


def boot_once(which, options):
    """Seconds from starting the program to the guest's first line."""
    config = vmm.Config(memory="1G", cpus=1, append="console=ttyS0 quiet guise.exec=dHJ1ZQ==", engine=options.engine if which == "guise" else None)
    machine = spawn(which, options, config, 120)
    try:
        machine.expect(r"guise: init\n")
        seconds = machine.seen_at(r"guise: init\n") - machine.started
        machine.wait()
        return seconds * 1e9
    finally:
        machine.close()


def unpack_rootdisk(image):
    """A copy of the image's files for the native runs, made once for each image."""
    target = os.path.join(OUT, "debian")
    stamp = os.path.join(OUT, "debian.stamp")
    key = f"{os.path.getsize(image)} {os.path.getmtime(image)}"
    if os.path.exists(stamp):
        with open(stamp, encoding="ascii") as f:
            if f.read() == key:
                return target
    shutil.rmtree(target, ignore_errors=True)
    os.makedirs(target)
    debugfs = shutil.which("debugfs", path=os.environ["PATH"] + ":/usr/sbin:/sbin") or "debugfs"
    for directory in ("bin", "etc", "lib", "lib32", "lib64", "root", "sbin", "usr"):
        subprocess.run([debugfs, "-R", f"rdump /{directory} {target}", image], capture_output=True, check=False)
    for directory in ("tmp", "dev", "proc"):
        os.makedirs(os.path.join(target, directory), exist_ok=True)
    os.chmod(os.path.join(target, "tmp"), 0o777)
    subprocess.run(["mknod", "-m", "666", os.path.join(target, "dev", "null"), "c", "1", "3"], check=False)
    with open(stamp, "w", encoding="ascii") as f:
        f.write(key)
    return target


def rootdisk_native(root, percent):
    shutil.copy(os.path.join(HERE, "rootdisk.sh"), os.path.join(root, "tmp", "rootdisk.sh"))
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root"}
    argv = ["taskset", "-c", "0", "chroot", root, "sh", "/tmp/rootdisk.sh", str(percent)]
    return parse(subprocess.run(argv, capture_output=True, text=True, check=False, env=environment).stdout, "native root disk")


def rootdisk_machine(which, options, image, percent):
    stem = image[: -len(".img")]
    with open(os.path.join(HERE, "rootdisk.sh"), "rb") as f:
        script_file = f.read()
    # The stock initramfs has no hook for files of ours, so the script comes on a second disk.
    disk = os.path.join(OUT, f"script-{which}")
    with open(disk, "wb") as f:
        f.write(script_file + b"\n" * (-len(script_file) % 4096))
    config = vmm.Config(
        kernel=stem + "-vmlinuz",
        initrd=stem + "-initrd.img",
        append="root=/dev/vda ro console=ttyS0 quiet init=/usr/local/sbin/guise-exec",
        memory="2G",
        cpus=1,
        disks=[(image, True), (disk, True)],
        engine=options.engine if which == "guise" else None,
    )
    command = f"cat /dev/vdb > /tmp/bench-rootdisk; echo mark begin $(cut -d' ' -f1 /proc/uptime); sh /tmp/bench-rootdisk {percent}; echo mark end $(cut -d' ' -f1 /proc/uptime)"
    vmm.Exec(command, OUT).apply(config)
    machine = spawn(which, options, config, 3600)
    try:
        machine.wait()
        parts = parse(machine.text, which + " root disk")
        check_clock(machine, which + " root disk")
        return parts
    finally:
        machine.close()


class Figures:
    """Samples by part and runner; refuses results that differ."""

    def __init__(self):
        self.samples = {}
        self.results = {}

    def add(self, runner, parts):
        for name, (ns, result) in parts.items():
            self.samples.setdefault(name, {}).setdefault(runner, []).append(ns)
            known = self.results.setdefault(name, (result, runner))
            if known[0] != result:
                raise Wrong(f"{name}: {runner} computed {result}, {known[1]} computed {known[0]}")

    def median(self, name, runner):
        values = self.samples.get(name, {}).get(runner)
        return statistics.median(values) if values else None

    def rows(self):
        for name in self.samples:
            native, guise, qemu = (self.median(name, r) for r in ("native", "guise", "qemu"))
            yield {
                "name": name,
                "title": TITLES.get(name, name),
                "native_ns": native,
                "guise_ns": guise,
                "qemu_ns": qemu,
                "guise_x_native": guise / native if guise and native else None,
                "qemu_x_native": qemu / native if qemu and native else None,
                "over_qemu": qemu / guise if qemu and guise else None,
            }


def human(ns):
    if ns is None:
        return "-"
    for limit, unit in ((1e3, "ns"), (1e6, "us"), (1e9, "ms")):
        if ns < limit:
            return f"{ns * 1e3 / limit:.3g} {unit}"
    return f"{ns / 1e9:.3g} s"


def times(ratio):
    return "-" if ratio is None else f"{ratio:.2f}"


def table(rows):
    yield f"| {'work':30} | {'native':>9} | {'Guise':>9} | {'QEMU TCG':>9} | {'x native':>8} | {'QEMU x':>8} | {'over QEMU':>9} |"
    yield f"|{'-' * 32}|{'-' * 10}:|{'-' * 10}:|{'-' * 10}:|{'-' * 9}:|{'-' * 9}:|{'-' * 10}:|"
    for r in rows:
        yield (
            f"| {r['title']:30} | {human(r['native_ns']):>9} | {human(r['guise_ns']):>9} | {human(r['qemu_ns']):>9} "
            f"| {times(r['guise_x_native']):>8} | {times(r['qemu_x_native']):>8} | {times(r['over_qemu']):>9} |"
        )


def describe_host(options):
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
        model = re.search(r"^model name\s*: (.*)$", f.read(), re.M)
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
        "memory_gib": round(memory, 1),
        "kernel": os.uname().release,
        "load": os.getloadavg()[0],
        "guise": first_line(options.guise, "--version"),
        "qemu": first_line(options.qemu, "--version"),
        "gcc": first_line(os.environ.get("CC", "gcc"), "--version"),
        "guest_kernel": kernel,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def save(host, options, rows, clocks):
    os.makedirs(RESULTS, exist_ok=True)
    stem = os.path.join(RESULTS, "quick" if options.quick else "full")
    with open(stem + ".json", "w", encoding="utf-8") as f:
        json.dump({"schema": 1, "host": host, "rounds": options.rounds, "percent": options.percent, "clock_ratio": clocks, "rows": rows}, f, indent=1)
        f.write("\n")
    with open(stem + ".svg", "w", encoding="utf-8") as f:
        f.write(chart.svg(rows, f"{host['cpu']}, {host['date']}"))
    return stem


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--guise", default=os.path.join(ROOT, "build", "guise"))
    p.add_argument("--qemu", default=shutil.which("qemu-system-x86_64") or "qemu-system-x86_64")
    p.add_argument("--engine", help="engine of guise run")
    p.add_argument("--runners", default="native,guise,qemu", help="which of native, guise, qemu to run")
    p.add_argument("--rounds", type=int, help="rounds, of which medians are taken (5; 1 with --quick)")
    p.add_argument("--percent", type=int, help="amount of work (100; 20 with --quick)")
    p.add_argument("--quick", action="store_true", help="one round, a fifth of the work, no root disk")
    p.add_argument("--rootdisk", default=os.path.join(vmm.GUEST, "debian.img"), help="Debian image; left out when it is not there")
    options = p.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.percent = options.percent or (20 if options.quick else 100)
    options.runners = options.runners.split(",")
    return options


def measure(options):
    """(figures, clock ratios)"""
    binaries = compile_programs()
    figures = Figures()
    clocks = {}
    machines = [r for r in ("guise", "qemu") if r in options.runners]
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        for which in machines:
            for _ in range(3 if options.quick else 1):
                figures.add(which, {"boot": (boot_once(which, options), 0)})
        if "native" in options.runners:
            figures.add("native", native_round(binaries, options.percent))
        for which in machines:
            parts, ratio = machine_round(which, options, binaries, options.percent)
            figures.add(which, parts)
            clocks.setdefault(which, []).append(round(ratio, 4))
    if not options.quick and os.path.exists(options.rootdisk):
        image = os.path.abspath(options.rootdisk)
        root = unpack_rootdisk(image) if "native" in options.runners and os.geteuid() == 0 else None
        for number in range(min(options.rounds, 3)):
            print(f"root disk, round {number + 1} of {min(options.rounds, 3)}", file=sys.stderr, flush=True)
            if root:
                figures.add("native", rootdisk_native(root, options.percent))
            for which in machines:
                figures.add(which, rootdisk_machine(which, options, image, options.percent))
    return figures, clocks


def main():
    options = arguments()
    host = describe_host(options)
    if host["load"] > 0.5:
        print(f"bench/run.py: the load of this host is {host['load']:.1f}: figures will be worse than they should be", file=sys.stderr)
    try:
        figures, clocks = measure(options)
    except (Wrong, vmm.VmmError) as error:
        print(f"bench/run.py: {error}", file=sys.stderr)
        return 1
    rows = list(figures.rows())
    stem = save(host, options, rows, clocks)
    print(f"{host['cpu']}, {host['cpus']} CPUs, {host['memory_gib']} GiB, Linux {host['kernel']}; guest kernel {host['guest_kernel']}")
    print(f"{host['guise']}; {host['qemu']}; {host['gcc']}; {host['date']}; medians of {options.rounds}\n")
    print("\n".join(table(rows)))
    print(f"\n{os.path.relpath(stem)}.json, {os.path.relpath(stem)}.svg", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
