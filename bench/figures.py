# SPDX-License-Identifier: Apache-2.0
"""What is measured and what is wanted of it: rows, the groups they belong to, the gate and the record of each group; samples, medians, geometric
means, verdicts; the tables and the files that a run leaves."""

import json
import math
import os
import statistics

import chart

MIB = 1 << 20


class Wrong(Exception):
    """A program computed something wrong, or a clock is off."""


class Row:
    """A part of a benchmark program. `unit`: shown as a rate, of which an operation is `amount`, per nanosecond."""

    def __init__(self, group, title=None, unit=None, amount=1.0):
        self.group = group
        self.title = title
        self.unit = unit
        self.amount = amount


# Thousands of functions of bench/programs/growth.c. A translator's cache is full somewhere on the way.
GROWTH_CODE = (1, 8, 32, 64, 72, 80, 96, 128)

# Parts that are not here are shown by their names, in the group "others".
ROWS = {
    "boot": Row("boot", "start to first line of /init"),
    "boot-tests": Row("boot-tests", "same, and tests of crypto"),
    "sieve": Row("kernels"),
    "quicksort": Row("kernels"),
    "crc32": Row("kernels"),
    "tree": Row("kernels"),
    "bytecode": Row("kernels", "byte-code interpreter"),
    "mix": Row("kernels"),
    "fib": Row("kernels", "calls and returns"),
    "indirect": Row("kernels", "indirect calls"),
    "matrix": Row("float", "matrix product"),
    "mandelbrot": Row("float"),
    "x87": Row("x87"),
    "memcpy": Row("memcpy", "memory copy, 64 MiB"),
    "memcpy-small": Row("memcpy", "memory copy, 100-355 bytes"),
    "chase": Row("chase", "pointer chase in DRAM"),
    "getppid": Row("getppid", "null system call"),
    "pagefault": Row("pagefault", "page fault"),
    "forkexec": Row("forkexec", "fork, exec and wait"),
    "pipe": Row("pipe", "pipe ping-pong"),
    **{f"code-first-{n}k": Row("code-first", f"first call, {n}k functions") for n in GROWTH_CODE},
    **{f"code-again-{n}k": Row("code-again", f"call again, {n}k functions") for n in GROWTH_CODE},
    **{f"pages-{n}k": Row("pages", f"word of a page, {n}k pages") for n in (1, 4, 16, 64)},
    **{f"processes-{n}": Row("processes", f"token passed by {n} processes") for n in (2, 4, 8, 16, 32, 64)},
    "timer-mean": Row("timer", "wake-up each ms, late: mean"),
    "timer-99": Row("timer", "wake-up each ms, late: 99 %"),
    "timer-max": Row("timer-max", "wake-up each ms, late: most"),
    "disk-read": Row("disk-sequential", "disk read, 1 MiB blocks", "GB/s", MIB),
    "disk-write": Row("disk-sequential", "disk write, 1 MiB blocks", "GB/s", MIB),
    "disk-random": Row("disk-random", "disk read, 4 KiB random, 32", "k/s", 1e6),
    "disk-read-cached": Row("disk-cached", "same read, in host's cache", "GB/s", MIB),
    "disk-random-cached": Row("disk-cached", "same random, in host's cache", "k/s", 1e6),
    "net-up": Row("net", "TCP, guest to host", "Gbit/s", 8 * MIB),
    "net-down": Row("net", "TCP, host to guest", "Gbit/s", 8 * MIB),
    "xz": Row("integer"),
    "zstd": Row("integer"),
    "7z": Row("integer"),
    "gcc-large": Row("integer", "gcc -O2, a large file"),
    "python3": Row("interpreters"),
    "node": Row("interpreters"),
    "luajit": Row("interpreters"),
    "openssl-sha256": Row("float", "openssl sha256"),
    "openssl-aes": Row("float", "openssl aes-128-ctr"),
    "x264": Row("float"),
    "gcc": Row("others", "gcc -O2, three small files"),
    "python3-start": Row("others", "start of python3"),
}

COLD = ".cold"  # ends the name of what ran for the first time since the machine started


class Group:
    """Rows of one kind. Gate and record: of time in times native, of times faster than QEMU, and of seconds or Gbit/s."""

    def __init__(self, title, native=None, qemu=None, absolute=None, unit=None):
        self.title = title
        self.native = native
        self.qemu = qemu
        self.absolute = absolute
        self.unit = unit


GROUPS = {
    "boot": Group("start to first line of /init", None, (3, 10), (0.6, 0.125), "s"),
    "boot-tests": Group("the same, and tests of crypto"),
    "integer": Group("integer programs, warm", (2.0, 1.3), (4, 7)),
    "interpreters": Group("byte-code interpreter, JITs, warm", (2.5, 1.6), (3, 5)),
    "float": Group("floating point and SIMD, warm", (1.5, 1.1), (10, 25)),
    "x87": Group("x87", (1.3, 1.05), (20, 40)),
    "memcpy": Group("memory copy", (1.1, 1.02), (3, 8)),
    "chase": Group("pointer chase in DRAM", (1.3, 1.1), (1.5, 2)),
    "getppid": Group("null system call", (2.0, 0.8), (3, 6)),
    "pagefault": Group("page fault", (5, 2), (3, 5)),
    "forkexec": Group("fork, exec and wait", (4, 2), (3, 6)),
    "pipe": Group("pipe ping-pong", (3, 1.3), (3, 8)),
    "code-first": Group("code that grows, first round"),
    "code-again": Group("code that grows, later rounds"),
    "pages": Group("pages that grow in number"),
    "processes": Group("processes that grow in number"),
    "timer": Group("timer, mean and 99 %"),
    "timer-max": Group("timer, the latest wake-up", None, None, (500e-6, 200e-6), "s"),
    # Wanted are 0.85 and 0.97, and 0.5 and 0.8, of the host file's rate.
    "disk-sequential": Group("disk, sequential", (1 / 0.85, 1 / 0.97), (1.5, 4)),
    "disk-random": Group("disk, 4 KiB random, 32 in flight", (1 / 0.5, 1 / 0.8), (1.5, 4)),
    "disk-cached": Group("disk, in the host's cache"),
    "net": Group("TCP through the built-in NAT", None, (2, 5), (2, 10), "Gbit/s"),
    "kernels": Group("small integer loops"),
    "others": Group("other programs, warm"),
    "integer" + COLD: Group("integer programs, first run"),
    "interpreters" + COLD: Group("byte-code interpreter, JITs, first run"),
    "float" + COLD: Group("floating point and SIMD, first run"),
    "others" + COLD: Group("other programs, first run"),
    "memcpy" + COLD: Group("memory copy, first rounds"),
}


def row_of(name):
    if name.endswith(COLD):
        warm = row_of(name[: -len(COLD)])
        return Row(warm.group + COLD, warm.title + ", first run")
    row = ROWS.get(name) or Row("others")
    return Row(row.group, row.title or name, row.unit, row.amount)


def ratio(a, b):
    return a / b if a and b else None


def geometric_mean(values):
    values = [v for v in values if v]
    return math.exp(statistics.fmean(math.log(v) for v in values)) if values else None


def verdict(value, wanted):
    """record, met or missed; None where nothing was measured or nothing is wanted. Less is better when the record is below the gate."""
    if value is None or wanted is None:
        return None
    gate, record = wanted
    sign = 1 if record > gate else -1
    return "record" if sign * value >= sign * record else "met" if sign * value >= sign * gate else "missed"


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
        """In the order of GROUPS."""
        order = list(GROUPS)
        for name in sorted(self.samples, key=lambda n: order.index(row_of(n).group)):
            row = row_of(name)
            native, guise, kvm, qemu = (self.median(name, r) for r in ("native", "guise", "kvm", "qemu"))
            group = GROUPS[row.group]
            yield {
                "name": name,
                "title": row.title,
                "group": row.group,
                "native_ns": native,
                "guise_ns": guise,
                "kvm_ns": kvm,
                "qemu_ns": qemu,
                "guise_x_native": ratio(guise, native),
                "kvm_x_native": ratio(kvm, native),
                "qemu_x_native": ratio(qemu, native),
                "over_qemu": ratio(qemu, guise),
                "x_native_gate": group.native and group.native[0],
                "x_native_verdict": verdict(ratio(guise, native), group.native),
                "over_qemu_verdict": verdict(ratio(qemu, guise), group.qemu),
                "samples_ns": self.samples[name],
            }


def _absolute(group, rows, who):
    """Seconds, or the rate, of the mean row."""
    mean = geometric_mean([r[who + "_ns"] for r in rows])
    if group.absolute is None or mean is None:
        return None
    return mean / 1e9 if group.unit == "s" else row_of(rows[0]["name"]).amount / mean


def _absolute_verdict(group, rows):
    """What the machine itself misses tells nothing about a guest of it."""
    guise, native = (verdict(_absolute(group, rows, who), group.absolute) for who in ("guise", "native"))
    return "missed natively too" if guise == native == "missed" else guise


def groups(rows):
    """Geometric means over the rows of each group that was measured, and what they are worth."""
    for name, group in GROUPS.items():
        members = [r for r in rows if r["group"] == name]
        if not members:
            continue
        native = geometric_mean([r["guise_x_native"] for r in members])
        qemu = geometric_mean([r["over_qemu"] for r in members])
        absolute = {"value": _absolute(group, members, "guise"), "unit": group.unit, "wanted": group.absolute}
        yield {
            "name": name,
            "title": group.title,
            "rows": [r["name"] for r in members],
            "x_native": {"value": native, "wanted": group.native, "verdict": verdict(native, group.native)},
            "over_qemu": {"value": qemu, "wanted": group.qemu, "verdict": verdict(qemu, group.qemu)},
            "absolute": {**absolute, "verdict": _absolute_verdict(group, members)},
        }


def human(ns, row):
    if ns is None:
        return "-"
    if row.unit:
        return f"{row.amount / ns:.3g} {row.unit}"
    for limit, unit in ((1e3, "ns"), (1e6, "us"), (1e9, "ms")):
        if ns < limit:
            return f"{ns * 1e3 / limit:.3g} {unit}"
    return f"{ns / 1e9:.3g} s"


def times(value):
    return "-" if value is None else f"{value:.2f}"


def _columns(rows, nested):
    """Title, width and text of each; those of KVM where it was measured."""

    def figure(who):
        return lambda r: human(r[who + "_ns"], row_of(r["name"]))

    def factor(key):
        return lambda r: times(r[key])

    kvm = "nested KVM" if nested else "KVM"
    yield "native", 13, figure("native")
    yield "Guise", 13, figure("guise")
    if any(r["kvm_ns"] for r in rows):
        yield kvm, 13, figure("kvm")
    yield "QEMU TCG", 13, figure("qemu")
    yield "x native", 8, factor("guise_x_native")
    if any(r["kvm_ns"] for r in rows):
        yield f"{kvm} x", 12, factor("kvm_x_native")
    yield "QEMU x", 8, factor("qemu_x_native")
    yield "over QEMU", 9, factor("over_qemu")


def table(rows, nested=False):
    """`nested`: this host is a virtual machine itself, so what KVM does here a KVM below it helps with."""
    width = max([len(r["title"]) for r in rows] + [30])
    columns = list(_columns(rows, nested))
    yield f"| {'work':{width}} | " + " | ".join(f"{title:>{w}}" for title, w, _ in columns) + " |"
    yield f"|{'-' * (width + 2)}|" + "".join(f"{'-' * (w + 1)}:|" for _, w, _ in columns)
    for r in rows:
        yield f"| {r['title']:{width}} | " + " | ".join(f"{text(r):>{w}}" for _, w, text in columns) + " |"


def group_table(found):
    def cell(what):
        if what["value"] is None:
            return "-"
        text = f"{what['value']:.3g}" + (f" {what['unit']}" if what.get("unit") else "")
        return f"{text} {what['verdict']} ({what['wanted'][0]:.3g}, {what['wanted'][1]:.3g})" if what["verdict"] else text

    yield f"| {'geometric means (gate, record)':38} | {'x native':26} | {'over QEMU':24} | {'itself':47} |"
    yield f"|{'-' * 40}|{'-' * 28}|{'-' * 26}|{'-' * 49}|"
    for g in found:
        yield f"| {g['title']:38} | {cell(g['x_native']):26} | {cell(g['over_qemu']):24} | {cell(g['absolute']):47} |"


def _history(path, entry):
    """Adds an entry to the lines of `path`; returns those of the same kind and host, oldest first."""
    with open(path, "a", encoding="utf-8") as f:
        f.write(json.dumps(entry) + "\n")
    with open(path, encoding="utf-8") as f:
        entries = [json.loads(line) for line in f if line.strip()]
    return [e for e in entries if (e["kind"], e["cpu"]) == (entry["kind"], entry["cpu"])]


def save(directory, kind, description, rows, found):
    """DIRECTORY/KIND.json and .svg: this run. history.jsonl and KIND-history.svg: all runs so far. Returns their common stem."""
    os.makedirs(directory, exist_ok=True)
    stem = os.path.join(directory, kind)
    host = description["host"]
    with open(stem + ".json", "w", encoding="utf-8") as f:
        json.dump({"schema": 2, **description, "rows": rows, "groups": found}, f, indent=1)
        f.write("\n")
    with open(stem + ".svg", "w", encoding="utf-8") as f:
        f.write(chart.bars(rows, f"{host['cpu']}, {host['date']}"))
    entry = {
        "kind": kind,
        "cpu": host["cpu"],
        "date": host["date"],
        "guise": host["guise"],
        "revision": host["revision"],
        "load": host["load"],
        "rounds": description["rounds"],
        "percent": description["percent"],
        "rows": {r["name"]: [r["native_ns"], r["guise_ns"], r["qemu_ns"]] for r in rows},
        "groups": {g["name"]: [g["x_native"]["value"], g["over_qemu"]["value"], g["absolute"]["value"]] for g in found},
    }
    entries = _history(os.path.join(directory, "history.jsonl"), entry)
    with open(stem + "-history.svg", "w", encoding="utf-8") as f:
        f.write(chart.lines(entries, {g["name"]: g["title"] for g in found if g["over_qemu"]["wanted"]}, host["cpu"]))
    return stem
