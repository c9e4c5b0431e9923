#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Gives perf the guest's names for translated code: from a trace of blocks to /tmp/perf-PID.map, which perf report reads.

    perf record -o perf.data build/guise run --trace blocks:blocks.txt --append nokaslr ...
    tools/perf-map.py blocks.txt --perf perf.data --symbols kallsyms
    perf report -i perf.data

SYMBOLS has lines "ADDRESS TYPE NAME", as System.map and the guest's /proc/kallsyms (read as root, in a guest booted with nokaslr). What it does not
name is shown by its address. Where the code cache was emptied during the run, what lay last at an address gives it its name.
"""

import argparse
import bisect
import re
import subprocess
import sys

BLOCK = re.compile(r"\S+ cpu\d+ ([0-9a-f]{16}) blocks host 0x([0-9a-f]+) bytes (\d+)\n")


def read_symbols(path):
    """Sorted addresses, and the names that belong to them."""
    found = {}
    with open(path, encoding="ascii", errors="replace") as f:
        for line in f:
            address, kind, name = line.split()[:3]
            if kind in "tTwW" and int(address, 16):
                found.setdefault(int(address, 16), name)
    addresses = sorted(found)
    return addresses, [found[a] for a in addresses]


def name_of(symbols, address):
    addresses, names = symbols
    i = bisect.bisect_right(addresses, address) - 1
    if i < 0 or address >> 63 != addresses[i] >> 63:
        return f"guest_{address:x}"
    return names[i]


def read_blocks(path):
    """{host address: (bytes, guest address)}, the later ones where the cache was emptied in between."""
    blocks = {}
    with open(path, encoding="ascii") as f:
        for line in f:
            m = BLOCK.fullmatch(line)
            if m:
                blocks[int(m[2], 16)] = int(m[3]), int(m[1], 16)
    return blocks


def without_overlaps(blocks):
    """Blocks of an earlier filling reach into later ones: they end where those begin."""
    addresses = sorted(blocks)
    for address, following in zip(addresses, addresses[1:] + [1 << 64]):
        size, guest = blocks[address]
        yield address, min(size, following - address), guest


def pid_in(perf_data):
    """Of the program called guise in a recording."""
    out = subprocess.run(["perf", "script", "-i", perf_data, "-F", "comm,pid"], capture_output=True, text=True, check=True).stdout
    pids = {line.split()[-1] for line in out.splitlines() if line.split()[:1] == ["guise"]}
    if len(pids) != 1:
        sys.exit(f"tools/perf-map.py: {perf_data} has {len(pids)} programs called guise; say which one with --pid")
    return int(pids.pop())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("trace", help="what --trace blocks:FILE wrote")
    p.add_argument("--symbols", help="names of the guest's functions")
    p.add_argument("--perf", help="the recording, to find the process in")
    p.add_argument("--pid", type=int, help="or the process")
    p.add_argument("--output", help="instead of /tmp/perf-PID.map")
    options = p.parse_args()
    if not (options.perf or options.pid or options.output):
        p.error("one of --perf, --pid and --output is needed")
    symbols = read_symbols(options.symbols) if options.symbols else ([], [])
    blocks = read_blocks(options.trace)
    if not blocks:
        sys.exit(f"tools/perf-map.py: {options.trace} tells of no block; record it with --trace blocks:FILE")
    output = options.output or f"/tmp/perf-{options.pid or pid_in(options.perf)}.map"
    with open(output, "w", encoding="ascii") as f:
        for address, size, guest in without_overlaps(blocks):
            f.write(f"{address:x} {size:x} {name_of(symbols, guest)}\n")
    print(f"{output}: {len(blocks)} blocks")


if __name__ == "__main__":
    main()
