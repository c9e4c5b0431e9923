# SPDX-License-Identifier: Apache-2.0
"""What a stock kernel finds when it boots: processors, memory, time, entropy, no complaints."""

import base64
import gzip
import hashlib
import re
import struct
import time

import vmm
from harness import ALL, GUISE, test

# Messages of level warning and above that say nothing about the machine. Each with its reason.
DMESG_ALLOWED = [
    # The guest keeps its mitigations by what CPUID says of the host's CPU; these lines describe that CPU, not a fault.
    r"(Spectre V2|MDS|TAA|MMIO Stale Data|RETBleed|SRSO|VMSCAPE|TSA|ITS|Register File Data Sampling|L1TF|Speculative Return Stack Overflow)\b.*",
    r".*https://.*/admin-guide/hw-vuln/.*",
    # Printed by every kernel of Debian's cloud flavour: the keys of UEFI are absent on a machine without UEFI.
    r".*platform keyring.*",
    # A shared or busy host may deliver timer interrupts late.
    r"clocksource: .*(took too long|retried|wd-.*).*",
    r"sched: RT throttling activated",
    # The kernel's own name for a machine without that part; it asks for it on every boot.
    r"i8042: (No controller found|PNP: No PS/2 controller found\.|Can't read CTR.*)",
    r"device-mapper: .*",
]
QEMU_ALLOWED = [
    r"mtrr: your CPUs had inconsistent .*",
    r"mtrr: probably your BIOS does not setup all CPUs\.?",
    r"mtrr: corrected configuration\.",
    r"acpi PNP0A03:00: fail to add MMCONFIG information.*",
    r"Unstable clock detected.*",
    r"If you want to keep using the local clock.*|  \"trace_clock=local\"|on the kernel command line|\s*\"?trace_clock=local\"?",
]


@test("boot-shell", timeout=60)
def boot_shell(t):
    """A person's session: the banner, a prompt, a command, job control, poweroff."""
    m = t.start(terminal=True, net="user")
    m.expect(r"guise: init\n")
    m.expect(r"guise: ready\n")

    def type_in(line, answer):
        m.expect(r"guise:~# ")
        m.send(line + "\n")
        m.expect(answer)

    type_in("echo $((6 * 7)) is the answer", r"\n42 is the answer\n")
    type_in("tty", r"/dev/(ttyS0|hvc0)\n")
    type_in("sleep 1000", r"sleep 1000\n")
    time.sleep(0.5)
    m.send("\x03")
    type_in("echo status $?", r"\nstatus 130\n")
    type_in("sleep 1000 &", r"\n")
    type_in("kill %1; wait; jobs; echo no jobs", r"\nno jobs\n")
    type_in("poweroff", r"\n")
    t.equal(m.wait(), 0, "exit status")
    t.check(m.terminal_restored(), "the terminal was not restored")


@test("boot-default-guest", timeout=60, on=GUISE)
def boot_default_guest(t):
    """`guise run` alone, as in the README."""
    m = t.guise("run", terminal=True)
    m.expect(r"guise: ready\n")
    m.expect(r"guise:~# ")
    m.send("exit\n")
    t.equal(m.wait(), 0, "exit status")
    t.check(re.search(r"engine (bt|kvm)", m.errors + m.text), "the engine was not named")


@test("boot-uname")
def boot_uname(t):
    output = t.run("uname -srm; hostname; id -u")
    t.check(re.fullmatch(r"Linux [56]\.\d+\.\d+\S*-cloud-amd64 x86_64\nguise\n0\n", output), output)


@test("boot-cmdline")
def boot_cmdline(t):
    output = t.run("cat /proc/cmdline", append='marker="with space" last')
    t.check(' marker="with space" last guise.exec=' in output, output)


def _cpus(t, cpus):
    output = t.run("nproc; cat /proc/cpuinfo; cat /sys/devices/system/cpu/online", cpus=cpus)
    t.equal(output.split("\n")[0], str(cpus), "nproc")
    blocks = [b for b in output.split("\n\n") if "processor" in b]
    t.equal(len(blocks), cpus, "processors in /proc/cpuinfo")
    ids = set()
    for block in blocks:
        fields = dict(re.findall(r"^([^\t:\n]+?)\s*: ?(.*)$", block, re.M))
        flags = set(fields["flags"].split())
        missing = {"fpu", "tsc", "msr", "pae", "cx8", "apic", "sep", "pge", "cmov", "pat", "sse2", "syscall", "nx", "lm", "hypervisor"} - flags
        t.check(not missing, f"CPU flags missing: {missing}")
        t.check(float(fields["cpu MHz"]) > 100, f"cpu MHz {fields['cpu MHz']}")
        t.check(float(fields["bogomips"]) > 100, f"bogomips {fields['bogomips']}")
        t.check("48 bits virtual" in fields["address sizes"] or "57 bits virtual" in fields["address sizes"], fields["address sizes"])
        t.check(fields["model name"].strip() and fields["vendor_id"].strip(), "no model name or vendor")
        ids.add(fields["apicid"])
    t.equal(len(ids), cpus, "distinct APIC ids")


@test("boot-cpuinfo")
def boot_cpuinfo(t):
    _cpus(t, 1)


def _complaints(t):
    """What must not be in the kernel's log. Its watchdogs count seconds, of which slowed machines need more."""
    return "segfault|general protection|oops:" + ("|stall|lockup" if t.slow <= 1 else "")


@test("boot-cpuinfo-smp", timeout=90)
def boot_cpuinfo_smp(t):
    _cpus(t, 4)


@test("boot-cpus-64-smp", timeout=60)
def boot_cpus_64_smp(t):
    """As many CPUs as there may be, on a host that has far fewer."""
    output = t.run(
        "nproc; for c in 0 21 42 63; do taskset -c $c sh -c 'seq 1 20000 | sha256sum' & done; wait\n"
        f"dmesg | grep -ciE '{_complaints(t)}'; true",
        cpus=64,
    )
    digest = hashlib.sha256("".join(f"{i}\n" for i in range(1, 20001)).encode()).hexdigest()
    t.check(output.startswith("64\n"), output)
    t.equal(output.count(digest), 4, "right digests")
    t.check(output.endswith("\n0\n"), output)


@test("boot-smp-interrupts", timeout=90)
def boot_smp_interrupts(t):
    """Both CPUs take timer interrupts and send each other interrupts, and both compute at the same time."""
    output = t.run(
        "for c in 0 1; do taskset -c $c sh -c 'seq 1 60000 | sha256sum' & done; wait\n"
        "cat /proc/interrupts\n"
        "echo 0 > /sys/devices/system/cpu/cpu1/online && nproc; echo 1 > /sys/devices/system/cpu/cpu1/online && nproc",
        cpus=2,
    )
    digest = hashlib.sha256("".join(f"{i}\n" for i in range(1, 60001)).encode()).hexdigest()
    t.equal(output.count(digest), 2, "right digests")
    for label in ("LOC", "CAL"):
        counts = re.search(rf"^ *{label}: +(\d+) +(\d+) ", output, re.M)
        t.check(counts and int(counts[1]) > 0 and int(counts[2]) > 0, f"{label} interrupts on both CPUs: {counts and counts[0]}")
    t.check(output.endswith("\n1\n2\n"), "CPU 1 did not go off and on line again")


@test("boot-smp-processes", timeout=120)
def boot_smp_processes(t):
    """Processes come and go on all CPUs, which go off and on line, and see no fault and no clock that is called unstable."""
    output = t.run(
        "loop() { i=0; while [ $i -lt 60 ]; do sh -c 'echo $((1 + 1)) | cat' >> /tmp/out$1; i=$((i + 1)); done; }\n"
        "for c in 0 1 2 3; do loop $c & done; wait; cat /tmp/out? | sort | uniq -c\n"
        "for c in 1 2 3; do echo 0 > /sys/devices/system/cpu/cpu$c/online; done; nproc\n"
        "for c in 1 2 3; do echo 1 > /sys/devices/system/cpu/cpu$c/online; done; nproc\n"
        "for c in 0 1 2 3; do taskset -c $c sh -c 'seq 1 60000 | sha256sum' & done; wait\n"
        f"dmesg | grep -ciE 'unstable|{_complaints(t)}'; true",
        cpus=4,
    )
    digest = hashlib.sha256("".join(f"{i}\n" for i in range(1, 60001)).encode()).hexdigest()
    t.check(re.match(r" *240 2\n1\n4\n", output), output)
    t.equal(output.count(digest), 4, "right digests")
    t.check(output.endswith("\n0\n"), output)


@test("boot-smp-crowd", timeout=120)
def boot_smp_crowd(t):
    """More CPUs than most hosts have, all computing, then more processes than CPUs: locks whose holders the host does not run cost no stall."""
    output = t.run(
        "for c in 0 1 2 3 4 5 6 7; do taskset -c $c sh -c 'seq 1 60000 | sha256sum' & done; wait\n"
        "loop() { i=0; while [ $i -lt 20 ]; do sh -c 'echo $((1 + 1)) | cat' >> /tmp/out$1; i=$((i + 1)); done; }\n"
        "for p in $(seq 24); do loop $p & done; wait; cat /tmp/out* | sort | uniq -c\n"
        "dmesg | grep -c -e 'PV spinlocks enabled' -e 'setup PV IPIs'\n"
        f"dmesg | grep -ciE '{_complaints(t)}'; true",
        cpus=8,
    )
    digest = hashlib.sha256("".join(f"{i}\n" for i in range(1, 60001)).encode()).hexdigest()
    t.equal(output.count(digest), 8, "right digests")
    kvm = 2 if t.options.vmm == "guise" else 0
    t.check(re.search(rf"\n *480 2\n{kvm}\n0\n$", output), output)


@test("boot-smp-code", timeout=90)
def boot_smp_code(t):
    """The kernel patches itself by the ten thousand while both CPUs run what is patched."""
    t.run(
        "mount -t tracefs t /sys/kernel/tracing 2>/dev/null; cd /sys/kernel/tracing\n"
        "loop() { while [ ! -e /tmp/stop ]; do sh -c 'echo $((1 + 1)) | cat' > /dev/null; done; }\n"
        "loop & loop &\n"
        "echo function > current_tracer && [ $(head -n 500 trace | wc -l) = 500 ] && echo nop > current_tracer || exit 1\n"
        "for on in 1 0 1 0; do echo $on > events/sched/enable; echo $on > events/syscalls/enable; done\n"
        f"touch /tmp/stop; wait; dmesg | grep -iE '{_complaints(t)}' && exit 2; true",
        cpus=2,
    )


def _dmesg(t, cpus, **kw):
    output = t.run("dmesg -r; ls /proc/sys/kernel/tainted >/dev/null && cat /proc/sys/kernel/tainted", cpus=cpus, **kw)
    allowed = DMESG_ALLOWED + (QEMU_ALLOWED if t.options.vmm == "qemu" else [])
    bad = []
    for line in output.splitlines():
        m = re.match(r"<(\d+)>\[ *[\d.]+\] ?(.*)", line)
        if m and int(m[1]) & 7 <= 4 and not any(re.fullmatch(p, m[2]) for p in allowed):
            bad.append(line)
    t.check(not bad, "kernel messages of level warning and above:\n      " + "\n      ".join(bad))
    t.check("Kernel command line" in output, "the kernel's log is not complete")
    t.check(output.endswith("\n0\n"), "the kernel is tainted")


@test("boot-dmesg")
def boot_dmesg(t):
    _dmesg(t, 1)


@test("boot-dmesg-devices", timeout=90)
def boot_dmesg_devices(t):
    disk = t.file("disk", bytes(1 << 20))
    _dmesg(t, 1, net="user", disks=[(disk, False)])


def _memory(t, size, mib):
    output = t.run("awk '/MemTotal/ { print $2 }' /proc/meminfo; cat /proc/iomem | grep 'System RAM'", memory=size)
    lines = output.splitlines()
    # The kernel keeps its own image, page descriptors (1/64) and per-CPU data.
    t.between(int(lines[0]) / 1024, mib * 0.94 - 60, mib, "MemTotal in MiB")
    total = sum(int(e, 16) - int(s, 16) + 1 for s, e in re.findall(r"^([0-9a-f]+)-([0-9a-f]+) : System RAM", output, re.M))
    t.between(total / 2**20, mib - 2, mib, "System RAM in /proc/iomem, MiB")


@test("boot-memory-small")
def boot_memory_small(t):
    _memory(t, "192M", 192)


@test("boot-memory-1g")
def boot_memory_1g(t):
    _memory(t, "1G", 1024)


@test("boot-memory-above-4g", timeout=90)
def boot_memory_above_4g(t):
    """More RAM than fits below the hole for devices."""
    _memory(t, "5G", 5120)


@test("boot-memory-use", timeout=90)
def boot_memory_use(t):
    """Writes and reads back most of the memory, through tmpfs."""
    output = t.run(
        "mount -t tmpfs -o size=300m t /mnt; dd if=/dev/urandom of=/mnt/a bs=1M count=100 2>/dev/null; cp /mnt/a /mnt/b; cat /mnt/a /mnt/b > /dev/null\n"
        "cmp /mnt/a /mnt/b && echo same; sha256sum /mnt/a /mnt/b | cut -d' ' -f1 | uniq | wc -l",
    )
    t.equal(output, "same\n1\n", "copies of 100 MiB")


@test("boot-clock", timeout=90)
def boot_clock(t):
    """Wall clock, the pace of time against the host's, the clock source."""
    before = time.time()
    m = t.start_exec(
        "date -u +%s; cat /sys/devices/system/clocksource/clocksource0/current_clocksource\n"
        "echo begin; cut -d' ' -f1 /proc/uptime; sleep 5; cut -d' ' -f1 /proc/uptime; echo end",
    )
    t.equal(m.wait(), 0, "exit status")
    after = time.time()
    status, output = vmm.Exec.result(m.text)
    lines = output.split("\n")
    t.equal(status, 0, "status")
    t.between(int(lines[0]), before - 2, after + 2, "guest's wall clock")
    if t.options.vmm == "guise":
        t.check(lines[1] in ("kvm-clock", "tsc"), f"clock source {lines[1]}")
    guest = float(lines[4]) - float(lines[3])
    host = m.seen_at(r"\nend\n") - m.seen_at(r"\nbegin\n")
    t.between(guest, 4.99, 5.5, "guest's seconds for sleep 5")
    t.between(host, 4.9, 6.0, "host's seconds for sleep 5")


@test("boot-timers")
def boot_timers(t):
    """Short sleeps: the timer is neither early nor coarse."""
    output = t.run("cut -d' ' -f1 /proc/uptime; i=0; while [ $i -lt 50 ]; do usleep 10000; i=$((i + 1)); done; cut -d' ' -f1 /proc/uptime")
    begin, end = map(float, output.split())
    t.between(end - begin, 0.49, 2.5, "seconds for fifty sleeps of 10 ms")


@test("boot-entropy")
def boot_entropy(t):
    output = t.run("cat /sys/class/misc/hw_random/rng_current; dd if=/dev/hwrng bs=1024 count=4 2>/dev/null | gzip -9 | wc -c; dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c")
    source, size, short = output.split()
    t.check(source.startswith("virtio_rng"), f"source {source}")
    t.check(int(size) > 4000, f"4 KiB of random bytes compress to {size}")
    t.check(int(short) > 0, "nothing read")


@test("boot-userland", timeout=120)
def boot_userland(t):
    """Compressors and hashes against this host's results."""
    output = t.run(
        "seq 1 150000 > /tmp/n; sha256sum < /tmp/n; sha512sum < /tmp/n; md5sum < /tmp/n; sha3sum < /tmp/n\n"
        "gzip -c /tmp/n | gunzip | md5sum; bzip2 -c /tmp/n | bunzip2 | md5sum; sort -rn /tmp/n | md5sum; awk '{ s += $1 * 0.1 } END { printf \"%.3f\\n\", s }' /tmp/n\n"
        "echo '2^128 + 17 * 3' | bc; i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i + 1)); done; echo $i",
    )
    data = "".join(f"{i}\n" for i in range(1, 150001)).encode()
    reverse = "".join(f"{i}\n" for i in range(150000, 0, -1)).encode()
    md5 = hashlib.md5(data).hexdigest()
    wanted = [
        hashlib.sha256(data).hexdigest() + "  -",
        hashlib.sha512(data).hexdigest() + "  -",
        md5 + "  -",
        hashlib.sha3_224(data).hexdigest() + "  -",
        md5 + "  -",
        md5 + "  -",
        hashlib.md5(reverse).hexdigest() + "  -",
        f"{sum(i * 0.1 for i in range(1, 150001)):.3f}",
        str(2**128 + 51),
        "100",
    ]
    t.equal(output.splitlines(), wanted, "results")


@test("boot-processes", timeout=120)
def boot_processes(t):
    """Many address spaces, pipes and signals at once."""
    output = t.run(
        "i=0; while [ $i -lt 300 ]; do (echo $i | cat | sed 's/$/!/' > /tmp/p$((i % 7))) & i=$((i + 1)); [ $((i % 20)) = 0 ] && wait; done; wait\n"
        "sh -c 'trap \"echo caught; exit 3\" TERM; sleep 100 & wait' & sleep 0.5; kill $!; wait $!; echo $?\n"
        "ls /tmp/p* | wc -l; sh -c 'kill -SEGV $$'; echo $?; (ulimit -v 60000; dd if=/dev/zero of=/dev/null bs=100M count=1) 2>/dev/null; echo $?",
    )
    t.equal([line for line in output.splitlines() if line not in ("Segmentation fault", "Terminated")], ["caught", "3", "7", "139", "1"], "results")


@test("boot-initrd-gzip")
def boot_initrd_gzip(t):
    with open(vmm.INITRD, "rb") as f:
        packed = t.file("initrd.gz", gzip.compress(f.read(), 1))
    t.equal(t.run("echo unpacked", initrd=packed), "unpacked\n", "output")


@test("boot-twice-alike", timeout=90)
def boot_twice_alike(t):
    """Two machines one after the other: what a guest sees of its hardware does not change between starts."""
    script = "cat /proc/iomem /proc/ioports; for d in /sys/bus/pci/devices/*; do cat $d/vendor $d/device $d/class $d/resource; done; ls /sys/firmware/acpi/tables"
    t.equal(t.run(script, net="user", append="nokaslr"), t.run(script, net="user", append="nokaslr"), "second start")


def _where(t, append):
    """The kernel's virtual and physical address, and where it maps all of RAM."""
    output = t.run("grep -w _text /proc/kallsyms; grep 'Kernel code' /proc/iomem; dd if=/proc/kcore bs=4096 count=1 2>/dev/null | base64", append=append)
    text, code, core = output.split("\n", 2)
    core = base64.b64decode(core)
    offset, count = struct.unpack_from("<Q", core, 32)[0], struct.unpack_from("<H", core, 56)[0]
    headers = [struct.unpack_from("<IIQQQQ", core, offset + 56 * i) for i in range(count)]
    direct_map = [virtual - physical for kind, _, _, virtual, physical, _ in headers if kind == 1 and physical == 0x1000]
    return int(text.split()[0], 16), int(code.split("-")[0], 16), direct_map[0]


@test("boot-kaslr", timeout=90)
def boot_kaslr(t):
    """The kernel, its place in RAM and its map of RAM are elsewhere at each start, unless they must not be."""
    starts = [_where(t, "") for _ in range(3)]
    for what, addresses, align in zip(("_text", "kernel code", "direct map"), zip(*starts), (2 << 20, 2 << 20, 1 << 30)):
        t.check(len(set(addresses)) > 1, f"{what} is always at {addresses[0]:#x}")
        t.check(all(a % align == 0 for a in addresses), f"{what}: {', '.join(hex(a) for a in addresses)}")
    t.check(all(0xFFFFFFFF81000000 <= text < 0xFFFFFFFFC0000000 for text, _, _ in starts), f"_text: {starts}")
    text, code, direct_map = _where(t, "nokaslr")
    t.equal((text, code), (0xFFFFFFFF81000000, 0x1000000), "addresses with nokaslr")
    t.check(direct_map in (0xFFFF888000000000, 0xFF11000000000000), f"direct map with nokaslr: {direct_map:#x}")  # four levels, five


@test("boot-pci", on=ALL)
def boot_pci(t):
    disk = t.file("disk", bytes(1 << 20))
    output = t.run("for d in /sys/bus/pci/devices/*; do echo $(cat $d/vendor $d/device) $(basename $(readlink $d/driver) 2>/dev/null); done; ls /sys/bus/virtio/devices", net="user", disks=[(disk, False)])
    if t.options.vmm == "guise":
        for device, kind in (("0x1041", "net"), ("0x1042", "blk"), ("0x1044", "rng")):
            t.check(f"0x1af4 {device} virtio-pci" in output, f"virtio-{kind} has no driver:\n{output}")
    else:
        t.check(output.count("virtio-pci") == 3, output)
