# SPDX-License-Identifier: Apache-2.0
"""The same machine with every engine, as its kernel sees it."""

import difflib
import re

from harness import GUISE, Skip, test

# What differs from boot to boot with one engine: what was measured, where memory was free, what came from the random number generator, the date.
VARIES = (
    (r"\d{4}-\d\d-\d\dT[\d:]+ UTC \(\d+\)", "DATE"),
    (r"audit\([\d.:]+\)", "audit"),
    (r"\d+(\.\d+)? ?(ns|us|usecs?|ms|msecs?|s|seconds?)\b", "TIME"),
    (r"\b\d+(\.\d+)? (BogoMIPS|MHz|cycles)", r"N \2"),
    (r"lpj=\d+", "lpj=N"),
    (r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b", "ADDRESS"),
    (r"\d+K/\d+K available.*", "MEMORY"),
)
# A slow machine's: Linux reads two clocks behind one another and wonders how far apart they are.
OF_SLOWNESS = r"clocksource: .*read-back delay"


def messages(t, engine):
    output = t.run("dmesg -r", engine=engine, append="nokaslr", extra=["--cpu", "x86-64-v2"])
    lines = []
    for line in output.splitlines():
        text = re.sub(r"^<\d+>\[ *[\d.]+\] ?", "", line)
        for pattern, name in VARIES:
            text = re.sub(pattern, name, text)
        if not re.match(OF_SLOWNESS, text):
            lines.append(text)
    return sorted(lines)  # what two threads of the kernel say has no order


@test("engines-same-dmesg", timeout=60, on=GUISE)
def same_dmesg(t):
    """A stock kernel says the same on KVM as with binary translation."""
    doctor = t.guise("doctor")
    doctor.wait(10 * t.slow)
    if not re.search(r"^engine kvm +ok", doctor.text, re.M):
        raise Skip("there is no KVM here")
    bt, kvm = messages(t, "bt"), messages(t, "kvm")
    different = [line for line in difflib.unified_diff(bt, kvm, "bt", "kvm", lineterm="", n=0) if not line.startswith("@@")]
    t.check(len(bt) > 100, f"only {len(bt)} messages")
    t.check(not different, "\n      ".join(["the kernel's messages differ:"] + different))
