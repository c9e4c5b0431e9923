# SPDX-License-Identifier: Apache-2.0
"""Named tests with a time limit each, run at most N at a time. A test is a function that takes a `Test` and raises when it fails."""

import concurrent.futures
import fnmatch
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import traceback

import vmm

ALL = ("guise", "qemu")
GUISE = ("guise",)

_registry = {}

# Files and directories that must not outlive this process, however it ends.
leftovers = set()


def remove_leftovers():
    for path in list(leftovers):
        shutil.rmtree(path, ignore_errors=True)
        if os.path.isfile(path):
            os.remove(path)


class Skip(Exception):
    """The host cannot run this test; the reason is the message."""


class Check(Exception):
    """Something was not as it should be."""


def test(name, timeout=60, on=ALL):
    """Registers a test. `timeout` is for an unloaded machine at native-like speed; --slow multiplies it. `on`: the programs it makes sense with."""

    def register(function):
        if name in _registry:
            raise ValueError(f"two tests are named {name}")
        _registry[name] = (function, timeout, on)
        return function

    return register


class Test:
    """What a test is given: a directory of its own, processes that are ended with it, and checks."""

    def __init__(self, name, options, timeout):
        self.name = name
        self.options = options
        self.slow = options.slow
        self.deadline = time.monotonic() + timeout * options.slow
        self.directory = tempfile.mkdtemp(prefix=f"guise-{name}-")
        leftovers.add(self.directory)
        self.processes = []
        self.cleanups = []
        self.notes = []

    # Running things

    def path(self, name):
        return os.path.join(self.directory, name)

    def file(self, name, data):
        with open(self.path(name), "wb") as f:
            f.write(data)
        return self.path(name)

    def mib(self, n):
        """Bytes of `n` MiB; an emulated CPU gets an eighth."""
        return (n << 20) // (8 if self.options.nested else 1)

    def program(self):
        return self.options.qemu if self.options.vmm == "qemu" else self.options.guise

    def spawn(self, argv, **kw):
        process = vmm.Process(argv, self.deadline, **kw)
        self.processes.append(process)
        return process

    def start(self, terminal=False, stdin=False, **kw):
        """Starts a machine; keywords are vmm.Config's, `append` is added to the default command line."""
        append = kw.pop("append", "")
        config = vmm.Config(**{"engine": self.options.engine, **kw})
        config.append = f"{config.append} {append}".strip()
        return self.spawn(vmm.ARGV[self.options.vmm](self.program(), config), terminal=terminal, stdin=stdin)

    def start_exec(self, script, files=None, append="", stdin=False, **kw):
        """Starts the default guest with a script to run; it powers off afterwards."""
        config = vmm.Config(**{"engine": self.options.engine, **kw})
        config.append = f"{config.append} {append}".strip()
        vmm.Exec(script, self.directory, files).apply(config)
        return self.spawn(vmm.ARGV[self.options.vmm](self.program(), config), stdin=stdin)

    def run(self, script, status=0, **kw):
        """Runs a script in the default guest; checks its status and that the machine ended well; returns the script's output."""
        machine = self.start_exec(script, **kw)
        ended = machine.wait()
        got, output = vmm.Exec.result(machine.text)
        self.equal(got, status, "the script's exit status")
        self.equal(ended, 0, "the machine's exit status")
        return output

    def guise(self, *arguments, **kw):
        """Runs guise with these arguments."""
        return self.spawn([self.options.guise, *arguments], **kw)

    def note(self, text):
        """Something measured, shown with the result."""
        self.notes.append(text)

    # Checks

    def check(self, condition, message):
        if not condition:
            raise Check(message)

    def equal(self, got, wanted, what):
        if got != wanted:
            raise Check(f"{what}: {got!r}, should be {wanted!r}")

    def between(self, value, low, high, what):
        if not low <= value <= high:
            raise Check(f"{what}: {value}, should be between {low} and {high}")

    def close(self):
        for process in self.processes:
            process.close()
        for cleanup in reversed(self.cleanups):
            cleanup()
        shutil.rmtree(self.directory, ignore_errors=True)
        leftovers.discard(self.directory)


_ports_given = set()
_ports_lock = threading.Lock()


def free_port():
    """A TCP port of the loopback address that nobody listens on now, and that no other test was given."""
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        with _ports_lock:
            if port not in _ports_given:
                _ports_given.add(port)
                return port


def _describe(test_, error):
    lines = [f"    {type(error).__name__}: {error}"]
    if not isinstance(error, (Check, vmm.VmmError)):
        lines += ["    " + line for line in traceback.format_exc().splitlines()]
    for process in test_.processes:
        lines.append("    $ " + " ".join(map(str, process.argv)))
        lines += ["    | " + line for line in process.text.splitlines()[-60:]]
        lines += ["    ! " + line for line in process.errors.splitlines()[-20:]]
    return "\n".join(lines)


def _run_one(name, options):
    function, timeout, _ = _registry[name]
    test_ = Test(name, options, timeout)
    begin = time.monotonic()
    detail = ""
    try:
        function(test_)
        outcome = "passed"
        detail = "\n".join("    " + note for note in test_.notes)
    except Skip as reason:
        outcome, detail = "skipped", f"    {reason}"
    except Exception as error:  # pylint: disable=broad-except
        outcome, detail = "failed", _describe(test_, error)
    finally:
        seconds = time.monotonic() - begin
        try:
            test_.close()
        except Exception as error:  # pylint: disable=broad-except
            outcome, detail = "failed", detail + f"\n    in the end: {error!r}"
    return name, outcome, seconds, detail


def select(patterns, vmm_name):
    wanted = [name for name, (_, _, on) in _registry.items() if vmm_name in on]
    if patterns:
        wanted = [name for name in wanted if any(fnmatch.fnmatch(name, p) for p in patterns)]
    return wanted


def main(options, names):
    """Runs the tests; returns the process's exit status."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    failed = []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        futures = [pool.submit(_run_one, name, options) for name in names]
        for future in concurrent.futures.as_completed(futures):
            name, outcome, seconds, detail = future.result()
            counts[outcome] += 1
            if outcome == "failed":
                failed.append(name)
            print(f"{outcome:8} {name} ({seconds:.1f} s)" + (f"\n{detail}" if detail else ""), flush=True)
    if failed:
        print("failed: " + " ".join(sorted(failed)))
    skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
    print(f"linux: {counts['passed']} passed, {counts['failed']} failed{skipped}", flush=True)
    if not names:
        print("no test was selected", file=sys.stderr)
        return 2
    return 1 if counts["failed"] else 0
