# SPDX-License-Identifier: Apache-2.0
"""Much data through each device that carries data, and the same bytes on both sides: --bulk says how much (make bulk: 1 GiB)."""

import hashlib
import os
import socket
import threading

from harness import GUISE, test

PIECE = 1 << 20
HOST = "10.0.2.2"
LIMIT = 600  # seconds, and much more than a GiB takes


def _pieces(n):
    """n MiB that do not repeat and are quickly made."""
    seed = os.urandom(PIECE - 8)
    return (i.to_bytes(8, "little") + seed for i in range(n))


def _digest_of_file(path, start=0, size=None):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        f.seek(start)
        while piece := f.read(PIECE if size is None else min(PIECE, size)):
            digest.update(piece)
            if size is not None:
                size -= len(piece)
    return digest.hexdigest()


@test("bulk-disk-read", timeout=LIMIT)
def bulk_disk_read(t):
    disk = t.path("disk")
    with open(disk, "wb") as f:
        f.writelines(_pieces(t.options.bulk))
    output = t.run("sha256sum < /dev/vda", disks=[(disk, False)])
    t.equal(output, _digest_of_file(disk) + "  -\n", "digest")


@test("bulk-disk-write", timeout=LIMIT)
def bulk_disk_write(t):
    disk = t.path("disk")
    with open(disk, "wb") as f:
        f.truncate(t.options.bulk * PIECE)
    output = t.run(f"dd if=/dev/urandom bs=1M count={t.options.bulk} 2>/dev/null | tee /dev/vda | sha256sum; sync", disks=[(disk, False)])
    t.equal(output, _digest_of_file(disk) + "  -\n", "digest")


def _serve(t, talk):
    """One connection, served by talk(connection) in a thread; returns the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(LIMIT)

    def serve():
        connection, _ = listener.accept()
        with connection:
            talk(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    t.cleanups.append(listener.close)
    return listener.getsockname()[1], thread


@test("bulk-net-in", timeout=LIMIT)
def bulk_net_in(t):
    digest = hashlib.sha256()

    def talk(connection):
        for piece in _pieces(t.options.bulk):
            digest.update(piece)
            connection.sendall(piece)

    port, _ = _serve(t, talk)
    output = t.run(f"nc {HOST} {port} < /dev/null | sha256sum", net="user")
    t.equal(output, digest.hexdigest() + "  -\n", "digest")


@test("bulk-net-out", timeout=LIMIT)
def bulk_net_out(t):
    digest = hashlib.sha256()

    def talk(connection):
        while piece := connection.recv(PIECE):
            digest.update(piece)

    port, thread = _serve(t, talk)
    output = t.run(
        f"mkfifo /tmp/p; sha256sum < /tmp/p > /tmp/sum & dd if=/dev/urandom bs=1M count={t.options.bulk} 2>/dev/null | tee /tmp/p | nc {HOST} {port}; wait; cat /tmp/sum",
        net="user",
    )
    thread.join(30)
    t.equal(output, digest.hexdigest() + "  -\n", "digest")


@test("bulk-console", timeout=LIMIT, on=GUISE)
def bulk_console(t):
    """The virtio console, as a file on this side. Text with line ends that nobody may translate. Linux makes pieces of 2 KiB of it and waits for each
    itself: interrupts for them would soon make it say, on this console, that nobody cared."""
    log = t.path("console")
    size = t.options.bulk * PIECE
    m = t.start_exec(
        f"exec 3<>/dev/hvc0; stty raw -echo <&3; seq 1 400000000 | dd bs=64k iflag=fullblock count={size >> 16} >&3 2>/dev/null",
        extra=["--console", f"file={log}"],
    )
    t.equal(m.wait(), 0, "exit status")
    with open(log, "rb") as f:
        start = f.read(PIECE).index(b"1\n2\n3\n4\n")
    digest, left, i = hashlib.sha256(), size, 1
    while left > 0:
        text = "".join(f"{n}\n" for n in range(i, i + 100000)).encode()[:left]
        digest.update(text)
        left -= len(text)
        i += 100000
    t.equal(_digest_of_file(log, start, size), digest.hexdigest(), "digest of what arrived")
