#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs everything that tests: Meson's suites (unit, cpu, guest, embed, corpus), then tests/linux. The last line is `N passed, N failed`.

    tools/run-tests.py --build build [--slow FACTOR] [--without-linux] [-- options of tests/linux/run.py]
"""

import argparse
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def meson(build, slow):
    """(passed, failed, skipped) of Meson's suites; a test that speaks TAP counts by its cases."""
    log = os.path.join(build, "meson-logs", "testlog.junit.xml")
    if os.path.exists(log):
        os.remove(log)
    status = subprocess.run(
        ["meson", "test", "-C", build, "--print-errorlogs", "--timeout-multiplier", str(slow)], check=False
    ).returncode
    passed = failed = skipped = 0
    if os.path.exists(log):
        for case in ET.parse(log).iter("testcase"):
            if case.find("skipped") is not None:
                skipped += 1
            elif case.find("failure") is not None or case.find("error") is not None:
                failed += 1
            else:
                passed += 1
    if status != 0 and failed == 0:
        failed = 1
    return passed, failed, skipped


def linux(build, slow, options):
    """The same of tests/linux, which prints its sums itself."""
    argv = [os.path.join(ROOT, "tests", "linux", "run.py"), "--guise", os.path.join(build, "guise"), "--slow", str(slow), *options]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    sums = None
    for line in process.stdout:
        print(line, end="", flush=True)
        sums = re.fullmatch(r"linux: (\d+) passed, (\d+) failed(?:, (\d+) skipped)?\n", line) or sums
    status = process.wait()
    if not sums:
        return 0, 1, 0
    passed, failed, skipped = (int(n or 0) for n in sums.groups())
    if status != 0 and failed == 0:
        failed = 1
    return passed, failed, skipped


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default=os.path.join(ROOT, "build"))
    p.add_argument("--slow", type=float, default=1.0, help="multiply every time limit")
    p.add_argument("--without-linux", action="store_true", help="only Meson's suites")
    p.add_argument("linux_options", nargs="*", metavar="-- OPTION", help="for tests/linux/run.py")
    options = p.parse_args()
    build = os.path.abspath(options.build)
    parts = [meson(build, options.slow)]
    if not options.without_linux:
        parts.append(linux(build, options.slow, options.linux_options))
    passed, failed, skipped = (sum(column) for column in zip(*parts))
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
