#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs a script in a machine that has KVM, on hosts that have none: QEMU TCG emulates a CPU with AMD's SVM, and the default guest in it loads
Debian's kvm-amd. What is tested there are Guise's KVM engine and KVM's own answers, not speed: an exit costs many times what it costs on hardware.

    tools/nested.py --add build/guise --guest -- 'guise doctor && guise run --no-reboot </dev/null'
    tools/nested.py --add build/tests/kvm/smoke -- smoke

QEMU 7.2 lets guests of KVM set XCR0 without KVM's knowledge: they have no AVX, and Linux warns as it starts. `--cpu max,-smap,-xsave` hides XSAVE
from KVM and its guests, and no warning comes; engine bt wants AVX and cannot run there.

The machine's console goes to standard output. Programs that are added lie in its PATH, with the shared libraries that they want.

Exit status: the script's; 77 this host has no QEMU, 124 the limit ran out, 125 the machine did not come as far as the script, or did not finish it.
"""

import argparse
import contextlib
import lzma
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import time

import vmm

CACHE = os.path.join(vmm.GUEST, "kvm")
MODULE = "kvm_amd"
READY = "nested: ready\n"
BIN = "usr/local/bin"  # /bin and /usr/bin are one directory there, which only the base archive knows
# All that TCG can. QEMU 7.2 takes an IRET within ring 3 for an access by the kernel, which SMAP forbids: engine bt would die of it.
CPU = "max,-smap"
# Linux does not believe that the CPUs' TSCs agree, as CPUID does not say so; here they are the host's. Without it KVM changes offsets by itself.
APPEND = vmm.DEFAULT_GUEST + " tsc=reliable panic=-1"
# At an NMI, which is only sent to a machine that stands still, its kernel shows what all CPUs and tasks do, and ends.
APPEND += " unknown_nmi_panic panic_print=0x41"
# With a thread for each CPU a machine in twenty stands still as KVM changes its host's code, both CPUs raising software interrupts without end. With
# one thread for two, which is no slower, a kick for the other CPU that arrives during VMRUN makes QEMU deliver the injected interrupt twice: guests
# of KVM died in series, at the first instruction of their timer's handler. So one CPU, unless a test wants more.
ACCEL = "tcg,thread=single"
SKIPPED, TIMED_OUT, FAILED = 77, 124, 125
LIMIT = 120


class Missing(Exception):
    """What this host lacks, and what to do."""


# The kernel's modules, from the package that the default guest was made from


def _release():
    try:
        with open(os.path.join(vmm.GUEST, "release"), encoding="ascii") as f:
            return f.read().strip()
    except OSError:
        raise Missing(f"there is no default guest in {vmm.GUEST}: run make guest") from None


def _package(release):
    directory = os.path.join(vmm.GUEST, "packages")
    for name in sorted(os.listdir(directory) if os.path.isdir(directory) else ()):
        if re.match(rf"linux-image-{re.escape(release)}(-unsigned)?_.*\.deb$", name):
            return os.path.join(directory, name)
    raise Missing(f"the package of kernel {release} is not in {directory}: remove {vmm.INITRD} and run make guest")


def _all_modules(package):
    """{name: content} of every module in a kernel's package."""
    modules = {}
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as unpacker:
        with tarfile.open(fileobj=unpacker.stdout, mode="r|") as tar:
            for member in tar:
                name = re.search(r"/([^/]+)\.ko(\.xz)?$", member.name)
                if name:
                    data = tar.extractfile(member).read()
                    modules[name[1].replace("-", "_")] = lzma.decompress(data) if name[2] else data
    if unpacker.returncode:
        raise Missing(f"{package} cannot be unpacked: remove it and run make guest")
    return modules


def _in_order(modules, name, order):
    """Appends `name` to `order`, behind what it depends on. Built-in modules have no file, which is as good."""
    if name in order or name not in modules:
        return
    depends = re.search(rb"\0depends=([^\0]*)\0", modules[name])
    for other in depends[1].decode().replace("-", "_").split(",") if depends else ():
        _in_order(modules, other, order)
    order.append(name)


def kvm_modules():
    """Paths of the modules of KVM in the order in which they are loaded. They are taken from each version of the package once."""
    package = _package(_release())
    target = os.path.join(CACHE, os.path.basename(package).removesuffix(".deb"))
    if not os.path.isdir(target):
        modules = _all_modules(package)
        if MODULE not in modules:
            raise Missing(f"{package} has no module {MODULE}")
        order = []
        _in_order(modules, MODULE, order)
        os.makedirs(CACHE, exist_ok=True)
        work = tempfile.mkdtemp(dir=CACHE)
        for i, name in enumerate(order):
            with open(os.path.join(work, f"{i:02}-{name}.ko"), "wb") as f:
                f.write(modules[name])
        try:
            os.rename(work, target)
        except OSError:  # another process was faster
            shutil.rmtree(work)
    return [os.path.join(target, name) for name in sorted(os.listdir(target))]


# What is in the machine


def _read(path):
    try:
        with open(path, "rb") as f:
            return stat.S_IMODE(os.fstat(f.fileno()).st_mode), f.read()
    except OSError as e:
        raise Missing(f"{path} cannot be read ({e.strerror})") from None


def add(files, path, place=None):
    """Puts a file of this host into `files`, a program with its shared libraries; a directory with all that is in it."""
    place = (place or f"{BIN}/{os.path.basename(path)}").lstrip("/")
    if os.path.isdir(path):
        for name in os.listdir(path):
            add(files, os.path.join(path, name), f"{place}/{name}")
        return
    files[place] = _read(path)
    if files[place][1].startswith(b"\x7fELF"):
        for library in vmm.shared_libraries(path):
            files[library.lstrip("/")] = _read(library)


def add_default_guest(files):
    """So that `guise run` finds it."""
    for path in (vmm.KERNEL, vmm.INITRD):
        add(files, path, "usr/local/share/guise/guest/" + os.path.basename(path))


def _prelude(modules, options):
    """Loads the modules. What fails here is not the script's fault, and told apart from it by the line that is missing."""
    load = [f"insmod /kvm/{os.path.basename(path)}" for path in modules]
    load[-1] += " " + options
    return " &&\n".join(load + ["[ -c /dev/kvm ]"]) + f" || exit\necho '{READY.strip()}'\nexport PATH=$PATH:/{BIN}\n"


# Running it


class Machine:
    """A machine that runs `script` with `files` in its root ({path: (mode, bytes)}), at most `limit` seconds. `with` starts and ends it.

    cpu: QEMU's model; kvm: options of kvm-amd ("npt=0"); hostfwd: (port here, port there), ...; extra: further options of QEMU. The machine ends with the thread that starts it."""

    def __init__(self, script, files=None, cpus=1, memory="4G", limit=LIMIT, cpu=CPU, kvm="", hostfwd=(), extra=()):
        self.script = script
        self.files = dict(files or {})
        self.config = vmm.Config(append=APPEND, cpus=cpus, memory=memory, qemu_accel=ACCEL, qemu_cpu=cpu, no_reboot=True, extra=list(extra))
        self.config.net, self.config.hostfwd = ("user", list(hostfwd)) if hostfwd else ("none", [])
        self.limit = limit
        self.kvm = kvm

    def __enter__(self):
        qemu = shutil.which("qemu-system-x86_64")
        if not qemu:
            raise Missing("there is no qemu-system-x86_64 here: tools/deps.sh bench installs it")
        modules = kvm_modules()
        for path in modules:
            add(self.files, path, "kvm/" + os.path.basename(path))
        self.directory = tempfile.TemporaryDirectory(prefix="guise-nested-")
        vmm.Exec(_prelude(modules, self.kvm) + self.script, self.directory.name, self.files).apply(self.config)
        self.monitor = os.path.join(self.directory.name, "monitor")
        self.config.extra += ["-monitor", f"unix:{self.monitor},server=on,wait=off"]
        # Whatever ends this process, SIGKILL as well, ends the machine.
        argv = ["setpriv", "--pdeathsig", "KILL", *vmm.qemu_argv(qemu, self.config)]
        self.process = vmm.Process(argv, time.monotonic() + self.limit)
        return self

    def __exit__(self, *_):
        self.process.close()
        self.directory.cleanup()

    def ready(self):
        """Seconds until the script began."""
        self.process.expect(re.escape(READY))
        return self.process.seen_at(READY) - self.process.started

    def explain(self):
        """What the machine's CPUs do, when it stands still: its kernel says so and ends."""
        done = len(self.process.text)
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as s:
            s.connect(self.monitor)
            s.sendall(b"nmi\n")
            for _ in range(50):
                if self.process.process.poll() is not None:
                    break
                time.sleep(0.2)
        return self.process.text[done:]

    def finish(self):
        """The script's status and what it wrote. vmm.VmmError when it did not come so far; self.process.text is the whole console."""
        self.process.wait()
        status, output = vmm.Exec.result(self.process.text)
        _, ready, output = output.partition(READY)
        if not ready:
            raise vmm.VmmError("KVM's modules could not be loaded")
        return status, output


def follow(process, write):
    """Hands the console over as it comes, until it ends or the process's time does."""
    done = 0
    while True:
        with process.cond:
            process.cond.wait_for(lambda: len(process.text) > done or not process.open_streams, max(process.left(), 0))
            text = process.text[done:]
        if not text:
            return
        write(text)
        done += len(text)


def _parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cpus", type=int, default=1)
    p.add_argument("--memory", default="4G")
    p.add_argument("--limit", type=float, default=LIMIT, metavar="SECONDS", help=f"for all of it (default {LIMIT})")
    p.add_argument("--cpu", default=CPU, help=f"QEMU's CPU model (default {CPU})")
    p.add_argument("--kvm", default="", metavar="OPTIONS", help="options of the module kvm-amd, such as npt=0")
    p.add_argument("--add", action="append", default=[], metavar="HOSTPATH[:PATH]", help=f"a file or directory (default PATH: /{BIN}/NAME)")
    p.add_argument("--guest", action="store_true", help="add the default guest, so that guise run finds it")
    p.add_argument("--qemu", action="append", default=[], metavar="OPTION", help="a further option of QEMU")
    p.add_argument("script", metavar="SCRIPT-TEXT")
    return p.parse_args()


def _run(options):
    files = {}
    for spec in options.add:
        path, _, place = spec.partition(":")
        add(files, path, place)
    if options.guest:
        add_default_guest(files)
    with Machine(options.script, files, options.cpus, options.memory, options.limit, options.cpu, options.kvm, extra=options.qemu) as machine:
        follow(machine.process, lambda text: print(text, end="", flush=True))
        if machine.process.left() <= 0:
            print(machine.explain(), end="")
            print(f"tools/nested.py: the limit of {options.limit:g} seconds ran out (--limit)", file=sys.stderr)
            return TIMED_OUT
        try:
            return machine.finish()[0]
        except vmm.VmmError as e:
            print(f"tools/nested.py: {e}; QEMU said: {machine.process.errors.strip() or 'nothing'}", file=sys.stderr)
            return FAILED


def main():
    def end(number, _frame):
        vmm.kill_all()
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    try:
        return _run(_parse())
    except Missing as e:
        print(f"tools/nested.py: {e}", file=sys.stderr)
        return FAILED if shutil.which("qemu-system-x86_64") else SKIPPED


if __name__ == "__main__":
    sys.exit(main())
