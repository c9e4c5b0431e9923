# SPDX-License-Identifier: Apache-2.0
"""A whole Debian, from its own initramfs to its package manager. One machine serves all tests: they run in the order of this file, each on the
shell that the serial console logs in, so that a boot of systemd is paid once."""

import os
import re
import shutil
import subprocess
import tempfile
import threading
import time

import vmm
from harness import Check, Skip, leftovers, test

PROMPT = r"root@guise-debian:\S*# "

_lock = threading.Lock()
_session = None


class _Session:
    """The machine with its disk copy; lives as long as this process."""

    def __init__(self, t):
        image = os.path.abspath(t.options.rootdisk)
        stem = image[: -len(".img")]
        # Beside the image, where there is room for it; named by nobody else.
        fd, self.copy = tempfile.mkstemp(prefix=os.path.basename(image) + ".", dir=os.path.dirname(image))
        os.close(fd)
        leftovers.add(self.copy)
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", image, self.copy], check=True)
        config = vmm.Config(
            kernel=stem + "-vmlinuz",
            initrd=stem + "-initrd.img",
            append="root=/dev/vda rw console=ttyS0 quiet",
            memory="2G",
            cpus=t.options.cpus,
            disks=[(self.copy, False)],
            net="user",
            engine=t.options.engine,
        )
        argv = vmm.ARGV[t.options.vmm](t.program(), config)
        self.machine = vmm.Process(argv, time.monotonic() + 7200 * t.slow, terminal=True)
        self.count = 0

    def run(self, t, command, seconds):
        """The command's output; it must succeed."""
        self.count += 1
        m = self.machine
        end = min(t.deadline, time.monotonic() + seconds * t.slow) - time.monotonic()
        # The marks are written in two parts so that the echo of the command line is not taken for them.
        m.send(f"echo '<<<'{self.count}'>>>'; ({command}); echo '<<<'{self.count} status $?'>>>'\n")
        m.expect(rf"<<<{self.count}>>>\n", end)
        begin = m.mark
        found = m.expect(rf"<<<{self.count} status (\d+)>>>\n", end)
        output = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", m.text[begin : found.start()])
        m.expect(PROMPT, end)
        if found[1] != "0":
            raise Check(f"status {found[1]}: {command}\n{output[-3000:]}")
        return output


def session(t):
    global _session
    if _session is None:
        raise Check("the machine did not reach a login")
    t.processes.append(_Console(_session.machine))
    return _session


class _Console:
    """For the harness's report: shows the shared machine's console without ending it."""

    def __init__(self, machine):
        self.argv, self.text, self.errors = machine.argv, machine.text, machine.errors

    def close(self):
        pass


def shared(name, timeout):
    """A test of the shared machine: they run one at a time, in order."""

    def register(function):
        @test("debian-" + name, timeout=timeout)
        def run(t):
            with _lock:
                t.deadline = time.monotonic() + timeout * t.slow
                function(t)

        return run

    return register


@shared("login", 240)
def login(t):
    """systemd reaches a login on the serial console, with nothing failed."""
    global _session
    started = _Session(t)
    started.machine.deadline = min(started.machine.deadline, t.deadline)
    try:
        started.machine.expect(PROMPT)
    except vmm.VmmError:
        t.processes.append(started.machine)
        os.remove(started.copy)
        raise
    started.machine.deadline = time.monotonic() + 7200 * t.slow
    _session = started
    state = started.run(t, "systemctl is-system-running --wait; systemctl --failed --no-legend", 120)
    t.equal(state, "running\n", "systemctl is-system-running")


@shared("dmesg", 60)
def dmesg(t):
    output = session(t).run(t, "dmesg -l emerg,alert,crit,err", 30)
    # The kernel for real machines asks for the rules of radio, and Debian's adds where to read about that. Any machine without the file says so.
    errors = [line for line in output.splitlines() if not re.search(r"regulatory\.db|about missing firmware", line)]
    t.equal(errors, [], "messages of level error and above")


@shared("network", 60)
def network(t):
    output = session(t).run(t, "networkctl --no-pager status | cat; ip -4 -o a", 30)
    t.check("10.0.2.15/24" in output, output)


@shared("apt", 900)
def apt(t):
    """apt-get update and install, from the sources that this host has; installs something small and runs it."""
    s = session(t)
    sources = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian"], capture_output=True, text=True, check=False)
    if not sources.stdout.strip():
        raise Skip("apt on this host has no source for Debian")
    s.run(t, "apt-get -q update > /tmp/apt.log 2>&1 || { tail /tmp/apt.log; false; }", 400)
    s.run(t, "DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends bc tree > /tmp/apt.log 2>&1 || { tail /tmp/apt.log; false; }", 400)
    t.equal(s.run(t, "echo '2^100' | bc; tree -L 1 / | tail -n 1 | grep -o directories", 30), str(2**100) + "\ndirectories\n", "bc and tree")


@shared("i386", 60)
def i386(t):
    output = session(t).run(t, "hello32; file -b /usr/local/bin/hello32", 30)
    lines = output.splitlines()
    t.equal(lines[0], "i386 2432902008176640000 21097.455887", "results")
    t.equal(lines[1], "i386 ok sigfpe 8", "signal")
    t.check(lines[2].startswith("ELF 32-bit"), lines[2])


@shared("gcc", 240)
def gcc(t):
    output = session(t).run(
        t,
        "cd /tmp; printf '#include <stdio.h>\\nint main(void) { unsigned long a = 0, b = 1; for (int i = 0; i < 90; i++) { unsigned long c = a + b; a = b; b = c; } printf(\"%%lu\\\\n\", a); }\\n' > f.c\n"
        " for o in -O0 -O2 '-O3 -march=x86-64-v3 -flto' '-m32 -O2'; do gcc $o -o f f.c && ./f; done",
        200,
    )
    t.equal(output.split(), ["2880067194370816120"] * 3 + [str(_fib32(90))], "fib(90)")


def _fib32(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, (a + b) & 0xFFFFFFFF
    return a


@shared("python-tests", 1800)
def python_tests(t):
    """Python's own tests: floating point, big integers, threads, processes, signals, sockets, memory maps, compression."""
    modules = (
        "test_float test_math test_cmath test_long test_int test_complex test_decimal test_fractions test_struct test_hash test_random test_re "
        "test_dict test_list test_set test_unicode test_json test_zlib test_bz2 test_lzma test_hashlib test_mmap test_thread test_threading test_queue "
        "test_signal test_subprocess test_fork1 test_select test_selectors test_time test_array test_ctypes test_gc test_io test_socket test_socketserver test_asyncio"
    )
    output = session(t).run(t, f"python3 -m test -j 2 --timeout 600 {modules} > /tmp/py.log 2>&1; grep -E '^(FAIL|ERROR):' /tmp/py.log; tail -n 25 /tmp/py.log", 1700)
    t.check(re.search(r"^(== Tests result|Tests result|Result): SUCCESS", output, re.M), output)


@shared("openssl", 300)
def openssl(t):
    output = session(t).run(
        t,
        "openssl speed -seconds 1 -bytes 8192 -evp aes-128-gcm 2>&1 | tail -n 1; openssl speed -seconds 1 ecdsap256 2>&1 | tail -n 1\n"
        " seq 1 100000 | openssl sha256; openssl enc -aes-256-cbc -pbkdf2 -k pw -in /bin/bash | openssl enc -d -aes-256-cbc -pbkdf2 -k pw | cmp - /bin/bash && echo same",
        250,
    )
    t.check("AES-128-GCM" in output or "aes-128-gcm" in output, output)
    t.check("3e3e1ae3fa2c" in output or re.search(r"[0-9a-f]{64}", output), output)
    t.check(output.endswith("same\n"), output)


@shared("compressors", 300)
def compressors(t):
    output = session(t).run(
        t, "cd /tmp; cp /usr/bin/python3.11 b; for c in 'xz -T2' 'zstd -q -19' 'gzip -9'; do $c -k -c b | $(echo $c | cut -d' ' -f1) -dc | cmp - b && echo ok; done; 7zz a -bd x.7z b > /dev/null && 7zz t -bd x.7z | grep Ok", 250
    )
    t.equal(output.split(), ["ok", "ok", "ok", "Everything", "is", "Ok"], "round trips")


@shared("jit", 240)
def jit(t):
    """JIT compilers write code while it runs: JavaScript and Lua."""
    output = session(t).run(
        t,
        "node -e 'function f(n){return n<2?n:f(n-1)+f(n-2)}; let s=0; for(let i=0;i<3e6;i++){s=(s*31+i)%1000003}; console.log(f(27), s)'\n"
        " luajit -e 'local s=0 for i=0,3e6-1 do s=(s*31+i)%1000003 end print(s)'",
        200,
    )
    s = 0
    for i in range(3000000):
        s = (s * 31 + i) % 1000003
    t.equal(output.split(), ["196418", str(s), str(s)], "results")


def needs(t, *paths):
    """The image must have these, or the test is skipped."""
    for path in paths:
        if "missing" in session(t).run(t, f"[ -e {path} ] || echo missing", 30):
            raise Skip(f"{path} is not in the image: make test-languages makes one that has it")


JAVA = """\
floats 8ad1678 3.738728531e+06 0x1.c86344p21
faults 200 200 18181 40 20
garbage -2066094319812679804 -5482030525100146687 6637303529696634677 8859910319481191572 32767
safepoints 3
threads 160000 1599999600 160000 999794999321
zip true 74814 117179725 1000005
crypto true 571da7fd62562126 571da7fd62562126 8e2a70d38232c8c2 true
vectors 1618687971 842919247 32765.8125
shapes 128657546400 1040483107
"""


@shared("java", 1800)
def java(t):
    """The Java compiler, and a program that checks itself under each garbage collector; the results are those of the machine itself."""
    needs(t, "/usr/bin/javac", "/root/Check.java")
    s = session(t)
    s.run(t, "javac -d /tmp /root/Check.java", 600)
    for collector in "G1", "Serial", "Parallel", "Z", "Shenandoah":
        t.equal(s.run(t, f"cd /tmp; java -XX:+Use{collector}GC -Xmx600m Check", 600), JAVA, f"results with the {collector} collector")


GO = """\
floats 17231f27 6.291415e+06
garbage 1528051 32767
faults 20031 51
preemption 20 6
channels 1772873486492339752
packing true 210063 true <nil> f589fe12167e2803a989afe3c2de2fad4c2e4057d0d3f74a38742647026af063
integers true 92428305949 5736 64173598505127104445
"""


@shared("go", 2400)
def go(t):
    """The Go compiler and vet, a program that checks itself, and tests of Go's own library."""
    needs(t, "/usr/bin/go", "/root/check.go")
    s = session(t)
    s.run(t, "go vet /root/check.go && go build -o /tmp/check /root/check.go", 900)
    for _ in range(3):
        t.equal(s.run(t, "/tmp/check", 300), GO, "results")
    output = s.run(t, "go test -count 1 strconv math sort compress/flate 2>&1", 1500)
    t.equal(re.findall(r"^(\w+)\s+(\S+)", output, re.M), [("ok", p) for p in ("strconv", "math", "sort", "compress/flate")], output)


PERL = """\
floats e7f9d7448500be611baf9ed8df959ab98858602470e1ebbba54199776282f64a
expressions 26 03e79834d02421b8fa4d90ce6ba6c199c42da57f2bce4e31fa14c787ecc4c7fe 5952612df02dab8481bbc2be3f2b838e618381383bc90aff4597b2a4a40515fa nested 500 256
integers 9b49c5eaf07660c4721e9deb8842e3157d302d63c1694a9c0f1c8f0ee0e008ee 869
sorting 844792 3777959440 01a5f955b94bf066a92425dfab1ab1d170050a73f781811eb5c57e04d0efb563
processes 105105210 50 alarm
closures 51585152535 5003 123
"""


@shared("perl", 300)
def perl(t):
    """Regular expressions, big integers, floating point, packing, sorting, processes and pipes, digests: the sum over all of them."""
    needs(t, "/root/check.pl")
    output = session(t).run(t, "perl /root/check.pl", 200)
    t.equal(output, PERL, "results")


@shared("qemu-user", 600)
def qemu_user(t):
    """A translator in the translated machine: QEMU's user mode runs programs of this and of another architecture."""
    needs(t, "/usr/bin/qemu-x86_64-static", "/usr/local/bin/hello32")
    s = session(t)
    t.equal(s.run(t, "qemu-i386-static /usr/local/bin/hello32", 60).splitlines()[0], "i386 2432902008176640000 21097.455887", "32-bit program")
    plain = s.run(t, "seq 1 50000 | sha256sum; printf '#include <math.h>\\n#include <stdio.h>\\nint main(void) { double s = 0; for (int i = 1; i < 300000; i++) s += sin(i) / sqrt(i); printf(\"%%.17g\\\\n\", s); }\\n' > /tmp/s.c; gcc -O2 -static -o /tmp/s /tmp/s.c -lm; /tmp/s", 60)
    under = s.run(t, "seq 1 50000 | qemu-x86_64-static /usr/bin/sha256sum; qemu-x86_64-static /tmp/s", 200)
    t.equal(under, plain, "what QEMU computes")


STRESSORS = (
    "cpu memcpy atomic futex fork mmap mprotect context sigq sigfpe sigsegv sigtrap timer timerfd itimer fp fp-error vecmath vecwide vecfp vecshuf "
    "x86cpuid rdrand tsc nop icache lockbus regs far-branch funccall misaligned prefetch branch stackmmap"
)


@shared("stress-ng", 7200)
def stress_ng(t):
    """What checks its own results, a few seconds each and one process a CPU: arithmetic, vectors, atomics, signals, timers, page tables, code
    that is written while it runs. For images with the package (make-rootdisk.sh --packages stress-ng)."""
    s = session(t)
    if "missing" in s.run(t, "command -v stress-ng || echo missing", 30):
        raise Skip("stress-ng is not in the image")
    for name in STRESSORS.split():
        seconds = t.options.seconds
        output = s.run(t, f"cd /tmp; stress-ng --verify --{name} {t.options.cpus} -t {seconds} 2>&1", 200 + 6 * seconds)
        t.check("successful run completed" in output or "No stress workers invoked" in output, output)
        t.check(not re.search(r"\bfail:|verification failed", output), output)
    t.equal(s.run(t, "dmesg -l emerg,alert,crit,err", 30), "", "messages of level error and above")


@shared("poweroff", 180)
def poweroff(t):
    """systemd powers the machine off; the file system is clean."""
    global _session
    s = session(t)
    s.machine.send("systemctl poweroff\n")
    s.machine.deadline = t.deadline
    try:
        t.equal(s.machine.wait(), 0, "exit status")
        e2fsck = shutil.which("e2fsck", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
        if e2fsck:
            check = subprocess.run([e2fsck, "-f", "-n", s.copy], capture_output=True, text=True, check=False)
            t.equal(check.returncode, 0, "e2fsck: " + check.stdout)
    finally:
        s.machine.close()
        os.remove(s.copy)
        _session = None
