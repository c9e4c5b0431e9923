# SPDX-License-Identifier: Apache-2.0
"""CPU models: what a stock kernel sees of them is what `guise doctor --cpu` says."""

import re

from harness import GUISE, test

# What Linux adds of its own to the CPU's flags, whatever CPUID says.
LINUX_ADDS = {"rep_good", "nopl", "cpuid", "extd_apicid", "xtopology", "tsc_known_freq", "vmmcall", "amd_dcm", "arch_perfmon", "pti", "pebs", "bts"}
# AMD's CPUs have PREFETCHW with long mode, and Linux knows.
LINUX_KNOWS = {"3dnowprefetch"}
# Linux calls SSE3 by the name that it had before it came out.
LINUX_NAMES = {"sse3": "pni"}


def announced(t, model):
    m = t.guise("doctor", f"--cpu={model}")
    t.equal(m.wait(10 * t.slow), 0, "doctor's exit status")
    names = set()
    for line in m.text.splitlines():
        name, verdict, reason = line.split("\t")
        t.check((verdict, bool(reason)) in (("announced", False), ("hidden", True)), line)
        if verdict == "announced":
            names.update(LINUX_NAMES.get(n, n) for n in name.split())
    return names


def field(text, name):
    return re.search(rf"^{name}\s*: (.*)$", text, re.MULTILINE).group(1)


def level(t, model, has, has_not, cpus):
    script = "cat /proc/cpuinfo; grep . /sys/devices/system/cpu/vulnerabilities/*; sha256sum /bin/busybox; nproc"
    output = t.run(script, cpus=cpus, extra=["--cpu", model])
    flags = set(field(output, "flags").split())
    wanted = announced(t, model) | ({"ht"} if cpus > 1 else set())
    if cpus > 1 and field(output, "vendor_id") == "AuthenticAMD":
        wanted.add("cmp_legacy")
    t.equal(sorted(wanted - flags), [], "announced, but not among Linux's flags")
    t.equal(sorted(flags - wanted - LINUX_ADDS - LINUX_KNOWS), [], "among Linux's flags, but not announced")
    t.check(has <= flags and not has_not & flags, f"{sorted(flags)}")
    t.equal(field(output, "model name"), f"Guise virtual CPU ({model})", "model name")
    t.equal(field(output, "address sizes"), "39 bits physical, 48 bits virtual", "address sizes")
    t.equal(field(output, "cpu cores"), str(cpus), "cores")
    t.equal(output.splitlines()[-1], str(cpus), "CPUs")


@test("cpu-x86-64-v2", on=GUISE)
def v2(t):
    level(t, "x86-64-v2", {"popcnt", "sse4_2", "cx16", "smep"}, {"xsave", "avx", "avx2", "bmi1", "aes", "smap"}, 1)


@test("cpu-x86-64-v3", on=GUISE)
def v3(t):
    level(t, "x86-64-v3", {"popcnt", "avx2", "fma", "xsave", "smep"}, {"avx512f", "xsavec", "aes", "pcid"}, 1)


@test("cpu-x86-64-v3-smp", timeout=90, on=GUISE)
def v3_smp(t):
    level(t, "x86-64-v3", {"avx2", "ht"}, {"avx512f"}, 3)


@test("cpu-host", on=GUISE)
def host(t):
    """Two names of one model; and what doctor says of it Linux sees, but for bits that it has no name for, or turns off itself."""
    flags = [set(field(t.run("cat /proc/cpuinfo", extra=extra), "flags").split()) for extra in ([], ["--cpu", "host"], ["--cpu", "max"])]
    t.check(flags[0] == flags[1] == flags[2], f"{flags}")
    instructions = {"pni", "ssse3", "sse4_2", "popcnt", "avx", "avx2", "fma", "bmi1", "bmi2", "aes", "avx512f", "sha_ni", "gfni", "pcid", "smap", "umip"}
    t.equal(sorted(flags[0] & instructions), sorted(announced(t, "host") & instructions), "instructions")
