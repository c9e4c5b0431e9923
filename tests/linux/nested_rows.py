# SPDX-License-Identifier: Apache-2.0
"""The tests that run on the KVM engine in a machine of tools/nested.py, where each machine is started by nested_guise.py: those that ask nothing of
this host but to start a machine, look at its console, and read a file afterwards. A boot costs several seconds there."""

import copy
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

ON_KVM = {
    "boot-smp-interrupts",
    "boot-clock",
    "disk-write",
    "life-exit-port",
    "life-reboot",
    "net-dhcp",
}
ON_BOTH = {"engines-same-dmesg", "handover-talking"}
NAMES = ON_KVM | ON_BOTH

# Guests of KVM start without a warning where there is no XSAVE, which engine bt needs.
MACHINES = ((ON_KVM, nested.CPU + ",-xsave"), (ON_BOTH, nested.CPU))


def _program(directory, port):
    """What the tests start in place of guise."""
    path = os.path.join(directory, "guise")
    with open(path, "w", encoding="utf-8") as f:
        f.write("#!/bin/sh\nexec " + shlex.join([sys.executable, nested_guise.__file__, str(port), "guise"]) + ' "$@"\n')
    os.chmod(path, 0o755)
    return path


def _run(options, names, cpu):
    port = harness.free_port()
    with nested_guise.machine(port, options.guise, options.nested_limit, cpu) as machine, tempfile.TemporaryDirectory() as directory:
        machine.ready()
        there = copy.copy(options)
        there.guise = _program(directory, port)
        there.engine = options.engine or "kvm"
        there.slow = max(options.slow, SLOW)
        there.jobs = 1
        status = harness.main(there, names)
        if machine.process.process.poll() is not None:
            print(f"the machine ended; QEMU said: {machine.process.errors.strip() or 'nothing'}\n{machine.process.text[-2000:]}")
        return status


def main(options, names):
    status = 0
    try:
        for of_machine, cpu in MACHINES:
            chosen = [name for name in names if name in of_machine]
            if chosen:
                status = _run(options, chosen, cpu) or status
        return status
    except (nested.Missing, vmm.VmmError) as e:
        print(f"tests/linux/run.py: {e}", file=sys.stderr)
        return 1 if shutil.which("qemu-system-x86_64") else SKIPPED
