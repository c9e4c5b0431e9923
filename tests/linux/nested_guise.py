#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""guise in a machine of tools/nested.py, as if it ran here: the same arguments, standard streams and status. Files that the arguments name are taken
there, and back at the end.

    tests/linux/nested_guise.py PORT guise run --kernel ...

PORT is where the machine's agent listens. A connection is a line, a command for its shell in base64, and from there on that command's standard input and
output. What `guise` wrote to standard error follows its status.
"""

import base64
import os
import re
import shlex
import socket
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools"))

import nested  # noqa: E402
import vmm  # noqa: E402

AGENT_PORT = 9000
AGENT = 'read -r command\neval "$(echo "$command" | base64 -d)"\n'
ENDED = b"\0nested: status "
THERE = (vmm.KERNEL, vmm.INITRD)  # from the beginning


# The machine


def machine(port, guise, limit, cpu):
    files = {"agent": (0o755, b"#!/bin/sh\n" + AGENT.encode())}
    nested.add(files, guise)
    for path in THERE:
        nested.add(files, path, path)
    script = f"nc -ll -p {AGENT_PORT} -e /agent"
    return nested.Machine(script, files, limit=limit, cpu=cpu, hostfwd=[(port, AGENT_PORT)])


# Its agent


def _connect(port, command):
    s = socket.create_connection(("127.0.0.1", port))
    s.sendall(base64.b64encode(command.encode()) + b"\n")
    return s


def ask(port, command, data=b""):
    """Runs a command with `data` as its input; returns its output."""
    with _connect(port, command) as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: s.recv(1 << 20), b""))


# Files


def _paths(arguments):
    """Absolute paths in the arguments, "file=PATH" and "PATH,readonly" among them."""
    words = {word for a in arguments for word in re.split(r"[,=]", a)}
    return [w for w in words if w.startswith("/") and w not in THERE and os.path.isdir(os.path.dirname(w))]


def _take(port, path):
    ask(port, f"mkdir -p {shlex.quote(os.path.dirname(path))}")
    if os.path.isfile(path):
        with open(path, "rb") as f:
            data = f.read()
        got = ask(port, f"cat >{shlex.quote(path)}; wc -c <{shlex.quote(path)}", data)
        if int(got) != len(data):
            sys.exit(f"nested_guise.py: {path}: {got} bytes arrived, not {len(data)}")


def _fetch(port, path):
    quoted = shlex.quote(path)
    if ask(port, f"[ -f {quoted} ] && echo there").strip():
        data = ask(port, f"cat {quoted}")
        if os.access(os.path.dirname(path), os.W_OK):
            with open(path, "wb") as f:
                f.write(data)
    ask(port, f"rm -f {quoted}")


# Running it


def _pump_input(s):
    while data := os.read(0, 65536):
        s.sendall(data)
    s.shutdown(socket.SHUT_WR)


def _write(fd, data):
    while data:
        data = data[os.write(fd, data) :]


def _run(port, arguments):
    """Its standard output as it comes; its status and standard error."""
    errors = f"/tmp/errors.{os.getpid()}"
    command = f"{shlex.join(arguments)} 2>{errors}; status=$?; printf '\\0nested: status %d\\n' $status; cat {errors}; rm {errors}"
    held = b""
    with _connect(port, command) as s:
        threading.Thread(target=_pump_input, args=(s,), daemon=True).start()
        while data := s.recv(65536):
            held += data
            end = held.find(b"\0")
            if end < 0 or not ENDED.startswith(held[end : end + len(ENDED)]):
                end = len(held)
            _write(1, held[:end])
            held = held[end:]
    status, _, text = held[len(ENDED) :].partition(b"\n")
    return int(status or 125), text


def main():
    port, arguments = int(sys.argv[1]), sys.argv[2:]
    paths = _paths(arguments)
    for path in paths:
        _take(port, path)
    status, errors = _run(port, arguments)
    for path in paths:
        _fetch(port, path)
    _write(2, errors)
    return status


if __name__ == "__main__":
    sys.exit(main())
