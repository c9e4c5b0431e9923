# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmark programs: natively, in Guise, in Guise on KVM, in QEMU TCG. Every function returns {part: (nanoseconds per operation, result)}, from a run whose
clock was checked. Children end with the call that started them, whatever happens."""

import ctypes
import mmap
import os
import re
import shutil
import subprocess
import time

import inputs
import vmm
from figures import Wrong

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "out")
PROGRAMS = ("integer", "float", "memory", "calls", "system")
DEVICE_PROGRAMS = ("disk", "net")
OWN_PARTS = ("growth", "timer")  # each is a part of its own
CFLAGS = ("-O2", "-ftree-vectorize", "-std=gnu17")
STATIC = ("system", "disk", "net", "growth", "timer")  # system: what it forks and starts is itself
# The host's own loopback address, as a machine's NAT shows it.
HOST_ADDRESS = "10.0.2.2"
# A guest's clock and ours may differ by console latency, and no more.
CLOCK_TOLERANCE = 0.03
CLOCK_SLACK = 0.25
NATIVE_LIMIT = 1200  # seconds; so are the others
BOOT_LIMIT = 120
PROGRAMS_LIMIT = 1800
ROOTDISK_LIMIT = 3600
SETTLED = 512 << 20  # bytes: more than a machine touches while it boots
# One CPU, as the machines have.
ONE_CPU = ["taskset", "-c", "0"]


def compile_programs():
    os.makedirs(OUT, exist_ok=True)
    binaries = {}
    for name in PROGRAMS + DEVICE_PROGRAMS + OWN_PARTS:
        source = os.path.join(HERE, "programs", name + ".c")
        binary = os.path.join(OUT, name)
        link = ["-static"] if name in STATIC else []
        subprocess.run([os.environ.get("CC", "gcc"), *CFLAGS, *link, "-o", binary, source, "-lm"], check=True)
        binaries[name] = binary
    return binaries


def settle():
    """Puts in order what other parts have left: writes what is to be written, and touches memory. Where the host is a virtual machine itself, memory
    that is not used goes back to its own host within seconds, and whoever comes next waits for it, at 2 to 12 us a page."""
    os.sync()
    piece = b"\1" * (4 << 20)
    with mmap.mmap(-1, SETTLED) as memory:
        for at in range(0, SETTLED, len(piece)):
            memory[at : at + len(piece)] = piece


def libraries(binaries):
    """Paths of the shared libraries that the programs need, the loader among them."""
    return sorted({path for name in PROGRAMS if name not in STATIC for path in vmm.shared_libraries(binaries[name])})


def parse(text, who):
    """{part: (nanoseconds per operation, result)} from `bench` lines."""
    wrong = re.search(r"^wrong (\S+)", text, re.M)
    if wrong:
        raise Wrong(f"{who}: {wrong[1]} computed a wrong result\n{text[-2000:]}")
    parts = {}
    for name, ns, operations, result in re.findall(r"^bench (\S+) (\d+) (\d+) (\d+)$", text, re.M):
        parts[name] = (int(ns) / int(operations), int(result))
    return parts


def run_native(argv, who, env=None, attend=None):
    """attend(process): does what the program asks for while it runs."""
    process = vmm.Process(argv, time.monotonic() + NATIVE_LIMIT, env=env, stdin=attend is not None)
    try:
        if attend:
            attend(process)
        status = process.wait()
    finally:
        process.close()
    parts = parse(process.text, who)
    if status:
        raise Wrong(f"{who}: status {status}\n{process.text[-2000:]}{process.errors[-2000:]}")
    return parts


def native_programs(binaries, percent):
    parts = {}
    for name in PROGRAMS:
        parts.update(native_program(binaries, name, percent))
    return parts


def native_program(binaries, name, percent):
    return run_native([*ONE_CPU, binaries[name], str(percent)], f"native {name}")


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


def marked(script):
    return f"echo mark begin $(cut -d' ' -f1 /proc/uptime)\n{script}\necho mark end $(cut -d' ' -f1 /proc/uptime)\n"


def why_no_kvm(guise):
    """None where Guise can use KVM, with hardware behind it."""
    doctor = subprocess.run([guise, "doctor"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"^engine kvm +(\S+) +(.*)$", doctor, re.M)
    return None if found and found[1] == "ok" else found[2] if found else "guise doctor does not tell"


class Runner:
    """One of the machines: Guise, Guise on KVM where there is one, QEMU TCG."""

    def __init__(self, which, program, engine=None):
        self.which = which
        self.program = program
        self.engine = {"guise": engine, "kvm": "kvm"}.get(which)
        self.clock_ratios = []

    def _config(self, **more):
        return vmm.Config(cpus=1, engine=self.engine, **{"memory": "1G", "append": "console=ttyS0 quiet", **more})

    def _spawn(self, config, limit, stdin=False):
        argv = vmm.qemu_argv if self.which == "qemu" else vmm.guise_argv
        return vmm.Process(argv(self.program, config), time.monotonic() + limit, stdin=stdin)

    def _run(self, config, limit, what, attend=None):
        who = f"{self.which} {what}"
        machine = self._spawn(config, limit, stdin=attend is not None)
        try:
            if attend:
                attend(machine)
            machine.wait()
            parts = parse(machine.text, who)
            self.clock_ratios.append(round(check_clock(machine, who), 4))
            return parts
        finally:
            machine.close()

    def boot(self):
        """From starting the program to the guest's first line, with the default guest's command line, and with all that a kernel does by itself."""
        return {"boot": self._boot(append=vmm.DEFAULT_GUEST), "boot-tests": self._boot()}

    def _boot(self, **more):
        config = self._config(**more)
        vmm.Exec("true", OUT).apply(config)
        settle()
        machine = self._spawn(config, BOOT_LIMIT)
        try:
            machine.expect(r"guise: init\n")
            seconds = machine.seen_at(r"guise: init\n") - machine.started
            machine.wait()
            return seconds * 1e9, 0
        finally:
            machine.close()

    def _run_in_default_guest(self, config, names, binaries, script, what, attend=None):
        files = {}
        for name in names:
            with open(binaries[name], "rb") as f:
                files[f"bench/{name}"] = (0o755, f.read())
        for path in libraries(binaries) if set(names) - set(STATIC) else ():
            with open(path, "rb") as f:
                files[path.lstrip("/")] = (0o755, f.read())
        vmm.Exec(marked(script), OUT, files).apply(config)
        try:
            return self._run(config, PROGRAMS_LIMIT, what, attend)
        finally:
            os.unlink(config.initrd)

    def programs(self, binaries, percent):
        script = "\n".join(f"/bench/{name} {percent} || exit 1" for name in PROGRAMS)
        return self._run_in_default_guest(self._config(), PROGRAMS, binaries, script, "programs")

    def own_part(self, binaries, name, percent):
        return self._run_in_default_guest(self._config(), (name,), binaries, f"/bench/{name} {percent} || exit 1", name)

    def disk(self, binaries, disk, percent, seed):
        """What goes through the host's page cache on one side does so on the other."""
        if self.which == "guise":
            extra = ["--disk", f"{disk.path},cache=writeback,io=auto"]
        else:
            aio = "io_uring" if host_has_io_uring() else "threads"
            extra = ["-drive", f"file={disk.path},format=raw,if=none,id=data,cache=writeback,aio={aio}", "-device", "virtio-blk-pci,drive=data"]
        script = f"/bench/disk run /dev/vda {percent} {seed} || exit 1"
        return self._run_in_default_guest(self._config(extra=extra), ("disk",), binaries, script, "disk", disk.attend)

    def net(self, binaries, port, percent):
        script = f"/bench/net run {HOST_ADDRESS} {port} {percent} || exit 1"
        return self._run_in_default_guest(self._config(net="user"), ("net",), binaries, script, "network")

    def rootdisk(self, image, percent):
        stem = image.removesuffix(".img")
        # The stock initramfs has no hook for files of ours, so they come on a second disk.
        config = self._config(
            kernel=stem + "-vmlinuz",
            initrd=stem + "-initrd.img",
            append="root=/dev/vda ro console=ttyS0 quiet init=/usr/local/sbin/guise-exec",
            memory="2G",
            disks=[(image, True), (inputs.make(OUT, percent), True)],
        )
        vmm.Exec("mkdir /tmp/bench; tar xf /dev/vdb -C /tmp/bench\n" + marked(f"sh /tmp/bench/rootdisk.sh {percent} || exit 1"), OUT).apply(config)
        return self._run(config, ROOTDISK_LIMIT, "root disk")


def host_has_io_uring():
    fd = ctypes.CDLL(None).syscall(425, 1, ctypes.create_string_buffer(120))
    if fd >= 0:
        os.close(fd)
    return fd >= 0


class DiskFile:
    """The file behind the disk that is measured. `with` makes and removes it."""

    def __init__(self, binaries, percent):
        self.program = binaries["disk"]
        self.percent = str(percent)
        self.path = os.path.join(OUT, f"disk-{os.getpid()}.img")
        self.seed = 0

    def __enter__(self):
        try:
            self._do("make")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if os.path.exists(self.path):
            os.unlink(self.path)

    def _do(self, verb, *more, prefix=(), attend=None):
        return run_native([*prefix, self.program, verb, self.path, self.percent, *more], f"native disk {verb}", attend=attend)

    def _forget(self):
        """Takes the file out of the host's cache."""
        fd = os.open(self.path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)

    def attend(self, process):
        """Each of the two readings that are to find nothing in a cache asks for that."""
        for _ in range(2):
            process.expect("disk: empty the cache\n")
            self._forget()
            process.send("\n")

    def native(self):
        return self.measured(lambda seed: self._do("run", str(seed), "buffered", prefix=ONE_CPU, attend=self.attend))

    def measured(self, run):
        """run(seed), and what it wrote is looked at."""
        self.seed += 1
        parts = run(self.seed)
        self._do("verify", str(self.seed))
        return parts


class NetServer:
    """What the guests talk to. `with` starts and ends it."""

    def __init__(self, binaries):
        self.program = binaries["net"]

    def __enter__(self):
        self.process = vmm.Process([self.program, "serve"], time.monotonic() + 24 * 3600)
        try:
            self.port = self.process.expect(r"port (\d+)\n", timeout=10)[1]
        except BaseException:
            self.process.close()
            raise
        return self

    def __exit__(self, *_):
        self.process.close()

    def native(self, percent):
        return run_native([*ONE_CPU, self.program, "run", "127.0.0.1", self.port, str(percent)], "native network")


class NativeRoot:
    """A copy of the root disk's files, made once for each image, in which programs run in a mount namespace of their own."""

    def __init__(self, image):
        self.image = image
        self.target = os.path.join(OUT, "rootdisk")

    @staticmethod
    def why_not():
        """Why this user cannot have one; None if he can."""
        if os.geteuid():
            return "not root"
        if not shutil.which("debugfs", path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            return "debugfs is missing"
        if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
            return "mount namespaces are forbidden here"
        return None

    def unpack(self):
        stamp = self.target + ".stamp"
        key = f"{os.path.realpath(self.image)} {os.path.getsize(self.image)} {os.path.getmtime(self.image)}"
        if os.path.exists(stamp):
            with open(stamp, encoding="utf-8") as f:
                if f.read() == key:
                    return
            os.unlink(stamp)
        shutil.rmtree(self.target, ignore_errors=True)
        os.makedirs(self.target)
        debugfs = shutil.which("debugfs", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
        for directory in ("bin", "etc", "lib", "lib32", "lib64", "root", "sbin", "usr"):
            subprocess.run([debugfs, "-R", f"rdump /{directory} {self.target}", self.image], capture_output=True, check=False)
        for directory in ("tmp", "dev", "proc"):
            os.makedirs(os.path.join(self.target, directory), exist_ok=True)
        with open(stamp, "w", encoding="utf-8") as f:
            f.write(key)

    def run(self, percent):
        self.unpack()
        # As in the machine: /tmp in memory, /proc and /dev there. The mounts end with the last process.
        script = """
            mount -t tmpfs tmpfs "$1/tmp" && mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" || exit 1
            mkdir "$1/tmp/bench" && tar xf "$2" -C "$1/tmp/bench" && exec chroot "$1" sh /tmp/bench/rootdisk.sh "$3"
        """
        argv = [*ONE_CPU, "unshare", "-m", "sh", "-c", script, "sh", self.target, inputs.make(OUT, percent), str(percent)]
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root"}
        return run_native(argv, "native root disk", env=environment)
