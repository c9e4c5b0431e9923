#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Boots stock kernels and looks at what happens. Run from `make test`, or by hand:
    tests/linux/run.py --list
    tests/linux/run.py --only 'net-*' --jobs 1
    tests/linux/run.py --vmm qemu        the same tests on QEMU TCG, as a second opinion on the tests themselves
"""

import argparse
import os
import shutil
import signal
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "tools")]

import harness  # noqa: E402
import nested_rows  # noqa: E402
import vmm  # noqa: E402


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--guise", default=os.path.join(ROOT, "build", "guise"), help="the program to test")
    p.add_argument("--qemu", default=shutil.which("qemu-system-x86_64") or "qemu-system-x86_64")
    p.add_argument("--vmm", choices=("guise", "qemu"), default="guise", help="what runs the machines")
    p.add_argument("--engine", help="engine of guise run: bt or kvm; default: its own choice")
    p.add_argument("--only", help="names to run, comma-separated, * allowed")
    p.add_argument("--jobs", type=int, default=2, help="tests at a time")
    p.add_argument("--slow", type=float, default=1.0, help="multiply every time limit (sanitizers, loaded machines)")
    p.add_argument("--rootdisk", help="a Debian disk image of tools/make-rootdisk.sh: run the tests for it, and only those")
    p.add_argument("--others", default=os.path.join(vmm.GUEST, "others"), help="where tools/make-others.sh put its kernels")
    p.add_argument("--i386", help="a disk image of tools/make-rootdisk.sh --arch i386 (default: guest/out/debian-i386.img)")
    p.add_argument("--cpus", type=int, default=1, help="CPUs of the root disk's machine")
    p.add_argument("--bulk", type=int, default=64, help="MiB of each of the tests bulk-*")
    p.add_argument("--seconds", type=int, default=4, help="of each stressor of debian-stress-ng")
    p.add_argument("--nested", action="store_true", help="on the KVM engine in an emulated machine (tools/nested.py), those tests that can")
    p.add_argument("--nested-limit", type=float, default=420, metavar="SECONDS", help="for all of these")
    p.add_argument("--list", action="store_true", help="only print the names")
    return p.parse_args()


def main():
    options = parse()
    if options.rootdisk:
        import test_rootdisk  # noqa: F401

        options.jobs = 1  # they share a machine, in order
    else:
        import test_bad  # noqa: F401
        import test_boot  # noqa: F401
        import test_bulk  # noqa: F401
        import test_completion  # noqa: F401
        import test_cpu  # noqa: F401
        import test_disk  # noqa: F401
        import test_engines  # noqa: F401
        import test_gdb  # noqa: F401
        import test_handover  # noqa: F401
        import test_life  # noqa: F401
        import test_memory  # noqa: F401
        import test_net  # noqa: F401
        import test_others  # noqa: F401
        import test_time  # noqa: F401
    names = harness.select(options.only.split(",") if options.only else [], options.vmm)
    if options.nested:
        names = [name for name in names if name in nested_rows.NAMES]
    if options.list:
        print("\n".join(names))
        return 0
    if not os.path.exists(options.guise) and options.vmm == "guise":
        print(f"tests/linux/run.py: {options.guise} is not there: run make", file=sys.stderr)
        return 2
    if not os.path.exists(vmm.INITRD):
        print(f"tests/linux/run.py: {vmm.INITRD} is not there: run make guest", file=sys.stderr)
        return 2

    def end(number, _frame):
        vmm.kill_all()
        harness.remove_leftovers()
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    return (nested_rows if options.nested else harness).main(options, names)


if __name__ == "__main__":
    sys.exit(main())
