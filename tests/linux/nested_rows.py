# SPDX-License-Identifier: Apache-2.0
"""The tests that run on the KVM engine in a machine of tools/nested.py, where each machine is started by nested_guise.py: those that ask nothing of
this host but to start a machine, look at its console, and read a file afterwards. A boot costs several seconds there."""

import os
import shlex
import shutil
import sys
import tempfile

import harness
import nested
import nested_guise
import vmm

SKIPPED = 77
SLOW = 4.0  # the least factor for limits

NAMES = {
    "boot-smp-interrupts",
    "boot-clock",
    "disk-write",
    "life-exit-port",
    "life-reboot",
    "net-dhcp",
}


def _program(directory, port):
    """What the tests start in place of guise."""
    path = os.path.join(directory, "guise")
    with open(path, "w", encoding="utf-8") as f:
        f.write("#!/bin/sh\nexec " + shlex.join([sys.executable, nested_guise.__file__, str(port), "guise"]) + ' "$@"\n')
    os.chmod(path, 0o755)
    return path


def _run(options, names):
    port = harness.free_port()
    with nested_guise.machine(port, options.guise, options.nested_limit) as machine, tempfile.TemporaryDirectory() as directory:
        machine.ready()
        options.guise = _program(directory, port)
        options.engine = options.engine or "kvm"
        options.slow = max(options.slow, SLOW)
        options.jobs = 1
        status = harness.main(options, names)
        if machine.process.process.poll() is not None:
            print(f"the machine ended; QEMU said: {machine.process.errors.strip() or 'nothing'}\n{machine.process.text[-2000:]}")
        return status


def main(options, names):
    try:
        return _run(options, names)
    except (nested.Missing, vmm.VmmError) as e:
        print(f"tests/linux/run.py: {e}", file=sys.stderr)
        return 1 if shutil.which("qemu-system-x86_64") else SKIPPED
