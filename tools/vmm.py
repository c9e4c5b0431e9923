# SPDX-License-Identifier: Apache-2.0
"""Runs virtual machines for the tests and the benchmarks: one description of a machine, two programs that can run it (Guise, and QEMU TCG as
the second opinion), and what is done with a machine's console: expect, send, collect with time stamps."""

import base64
import os
import pty
import re
import select
import signal
import subprocess
import termios
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GUEST = os.path.join(ROOT, "guest", "out")
KERNEL = os.path.join(GUEST, "vmlinuz")
INITRD = os.path.join(GUEST, "initrd.img")
DEFAULT_GUEST = "console=ttyS0 quiet cryptomgr.notests"  # the command line of `guise run` without a kernel

EXEC_BEGIN = "guise: exec\n"
EXEC_END = re.compile(r"guise: exec status (\d+)\n")
# The kernel's command line is 2,047 bytes at most; longer scripts travel in an initramfs of their own.
EXEC_INLINE_MAX = 1200


class VmmError(Exception):
    """What a machine did not do in time, or did wrong."""


def newc(files):
    """A cpio archive (newc) from {path: (mode, bytes)}; directories are made for every path. The kernel unpacks archives that follow each other."""
    out = bytearray()
    inode = 0

    def entry(path, mode, data):
        nonlocal inode
        inode += 1
        name = path.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        out.extend(b"070701" + b"".join(b"%08X" % f for f in fields) + name)
        out.extend(b"\0" * (-len(out) % 4))
        out.extend(data)
        out.extend(b"\0" * (-len(out) % 4))

    made = set()
    for path, (mode, data) in sorted(files.items()):
        parts = path.split("/")[:-1]
        for i in range(len(parts)):
            directory = "/".join(parts[: i + 1])
            if directory not in made:
                made.add(directory)
                entry(directory, 0o40755, b"")
        entry(path, 0o100000 | mode, data)
    entry("TRAILER!!!", 0, b"")
    out.extend(b"\0" * (-len(out) % 512))
    return bytes(out)


def shared_libraries(program):
    """Paths of the shared libraries that a program needs, the loader among them; none for a static one."""
    text = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return sorted(set(re.findall(r"(/\S+) \(0x", text)))


class Config:
    """What a machine is made of. Both programs understand all of it."""

    def __init__(self, **kw):
        self.kernel = KERNEL
        self.initrd = INITRD
        self.append = "console=ttyS0 quiet"  # the kernel tests its own cryptography, and the machine with it
        self.memory = "512M"
        self.cpus = 1
        self.disks = []  # (path, readonly)
        self.net = "none"  # none, user
        self.hostfwd = []  # (host port, guest port)
        self.no_reboot = False
        self.exit_port = None
        self.engine = None
        self.qemu_accel = "tcg"  # QEMU's way to run code
        self.qemu_cpu = "max"  # and its CPU model
        self.extra = []
        for key, value in kw.items():
            if not hasattr(self, key):
                raise TypeError(f"Config has no {key}")
            setattr(self, key, value)


def guise_argv(program, c):
    argv = [program, "run", "--kernel", c.kernel]
    if c.initrd:
        argv += ["--initrd", c.initrd]
    argv += ["--append", c.append, "--memory", c.memory, "--cpus", str(c.cpus)]
    for path, readonly in c.disks:
        argv += ["--disk", path + (",readonly" if readonly else "")]
    net = c.net + "".join(f",hostfwd=tcp:{host}:{guest}" for host, guest in c.hostfwd)
    argv += ["--net", net]
    if c.no_reboot:
        argv += ["--no-reboot"]
    if c.exit_port is not None:
        argv += ["--exit-port", hex(c.exit_port)]
    if c.engine:
        argv += ["--engine", c.engine]
    return argv + c.extra


def qemu_argv(program, c):
    argv = [program, "-accel", c.qemu_accel, "-cpu", c.qemu_cpu, "-nodefaults", "-display", "none", "-monitor", "none"]
    argv += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    argv += ["-kernel", c.kernel, "-append", c.append, "-m", c.memory, "-smp", str(c.cpus), "-device", "virtio-rng-pci"]
    if c.initrd:
        argv += ["-initrd", c.initrd]
    for i, (path, readonly) in enumerate(c.disks):
        argv += ["-drive", f"file={path},format=raw,if=none,id=d{i},readonly={'on' if readonly else 'off'}"]
        argv += ["-device", f"virtio-blk-pci,drive=d{i}"]
    if c.net == "user":
        forwards = "".join(f",hostfwd=tcp:127.0.0.1:{host}-:{guest}" for host, guest in c.hostfwd)
        argv += ["-nic", "user,model=virtio-net-pci" + forwards]
    if c.no_reboot:
        argv += ["-no-reboot"]
    if c.exit_port is not None:
        argv += ["-device", f"isa-debug-exit,iobase={c.exit_port:#x},iosize=4"]
    return argv + c.extra


ARGV = {"guise": guise_argv, "qemu": qemu_argv}


_running = set()


def kill_all():
    """Ends every child that runs; for signal handlers."""
    for process in list(_running):
        try:
            os.killpg(process.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


class Process:
    """A child with its output collected by a thread. `terminal`: its standard input and output are a terminal of its own."""

    def __init__(self, argv, deadline, terminal=False, stdin=False, env=None, user=None):
        self.argv = argv
        self.deadline = deadline
        self.started = time.monotonic()
        self.chunks = []  # (time, text)
        self.text = ""
        self.errors = ""
        self.mark = 0
        self.cond = threading.Condition()
        self.open_streams = 2
        self.reading = threading.Event()  # cleared: standard output is left unread
        self.reading.set()
        self.terminal = terminal
        master = None
        if terminal:
            master, slave = pty.openpty()
            termios.tcsetwinsize(slave, (24, 80))
            self.attributes = termios.tcgetattr(slave)
            self.slave = slave
        self.master = master
        # Unbuffered everywhere: what was written before a deadline must be seen.
        # setsid -c makes the terminal the controlling one, as a person's is; it does not fork, so the process is still the program.
        self.process = subprocess.Popen(
            ["setsid", "-c", *argv] if terminal else argv,
            stdin=slave if terminal else subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=slave if terminal else subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=env,
            user=user,
            start_new_session=not terminal,
        )
        _running.add(self)
        out = master if terminal else self.process.stdout.fileno()
        self.threads = [
            threading.Thread(target=self._collect, args=(out, False), daemon=True),
            threading.Thread(target=self._collect, args=(self.process.stderr.fileno(), True), daemon=True),
        ]
        for thread in self.threads:
            thread.start()

    def _collect(self, fd, is_errors):
        while True:
            try:
                if not is_errors:
                    self.reading.wait()
                if self.terminal and not is_errors:
                    # We hold the other end open too (to look at its attributes), so its end is no end of file: the child's is.
                    ready, _, _ = select.select([fd], [], [], 0.1)
                    if not ready:
                        if self.process.poll() is not None:
                            break
                        continue
                data = os.read(fd, 65536)
            except OSError:
                break
            if not data:
                break
            text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "")
            with self.cond:
                if is_errors:
                    self.errors += text
                else:
                    self.chunks.append((time.monotonic(), text))
                    self.text += text
                self.cond.notify_all()
        with self.cond:
            self.open_streams -= 1
            self.cond.notify_all()

    def left(self):
        return self.deadline - time.monotonic()

    def expect(self, pattern, timeout=None):
        """Waits until the regular expression occurs in what has not been looked at yet; returns the match."""
        regex = re.compile(pattern)
        end = self.deadline if timeout is None else min(self.deadline, time.monotonic() + timeout)
        with self.cond:
            while True:
                match = regex.search(self.text, self.mark)
                if match:
                    self.mark = match.end()
                    return match
                if self.open_streams == 0:
                    raise VmmError(f"ended (status {self.process.wait()}) before {pattern!r} was seen")
                wait = end - time.monotonic()
                if wait <= 0:
                    raise VmmError(f"timed out waiting for {pattern!r}")
                self.cond.wait(wait)

    def seen_at(self, pattern):
        """The time (monotonic, seconds) at which the first match of `pattern` was complete."""
        regex = re.compile(pattern)
        text = ""
        for when, chunk in self.chunks:
            text += chunk
            if regex.search(text):
                return when
        raise VmmError(f"{pattern!r} was not seen")

    def send(self, text):
        data = text.encode() if isinstance(text, str) else text
        fd = self.master if self.terminal else self.process.stdin.fileno()
        while data:
            data = data[os.write(fd, data) :]

    def close_input(self):
        self.process.stdin.close()

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, timeout=None):
        """The exit status (negative: killed by that signal), after all output has been collected."""
        limit = self.left() if timeout is None else min(self.left(), timeout)
        try:
            status = self.process.wait(max(limit, 0.01))
        except subprocess.TimeoutExpired:
            raise VmmError("still running at the end of its time") from None
        for thread in self.threads:
            thread.join(5)
        return status

    def terminal_restored(self):
        return termios.tcgetattr(self.slave) == self.attributes

    def close(self):
        self.reading.set()
        if self.process.poll() is None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
        _running.discard(self)
        for thread in self.threads:
            thread.join(5)
        if self.terminal:
            os.close(self.master)
            os.close(self.slave)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                stream.close()


class Exec:
    """Makes the default guest run a script instead of a shell, then power off. `files` go into the guest's root as they are."""

    def __init__(self, script, directory, files=None):
        self.script = script
        self.files = dict(files or {})
        self.directory = directory

    def apply(self, config):
        """Returns nothing; config's command line and initramfs now carry the script."""
        encoded = base64.b64encode(self.script.encode()).decode()
        if len(encoded) <= EXEC_INLINE_MAX:
            config.append += f" guise.exec={encoded}"
        else:
            self.files["run.sh"] = (0o755, self.script.encode())
            config.append += " guise.script=/run.sh"
        if self.files:
            combined = os.path.join(self.directory, f"initrd-{id(self):x}.img")
            with open(combined, "wb") as out, open(config.initrd, "rb") as base:
                out.write(base.read())
                out.write(b"\0" * (-out.tell() % 4))
                out.write(newc(self.files))
            config.initrd = combined

    @staticmethod
    def result(text):
        """(status, output) from a console's text."""
        begin = text.find(EXEC_BEGIN)
        if begin < 0:
            raise VmmError("the guest did not start the script")
        begin += len(EXEC_BEGIN)
        end = EXEC_END.search(text, begin)
        if not end:
            raise VmmError("the guest did not finish the script")
        return int(end.group(1)), text[begin : end.start()]
