# SPDX-License-Identifier: Apache-2.0
"""The completions of docs/completion in the shells themselves, as far as this host has them."""

import os
import re
import shlex
import shutil

from harness import GUISE, Skip, test

HERE = os.path.dirname(os.path.abspath(__file__))
COMPLETION = os.path.join(HERE, "..", "..", "docs", "completion")

# What must be among the answers; zsh and bash answer for a part of the word.
LINES = (
    ("guise ", ("run", "doctor", "help")),
    ("guise r", ("run",)),
    ("guise help ", ("run", "doctor")),
    ("guise run --con", ("--console",)),
    ("guise doctor ", ("--cpu",)),
    ("guise doctor --cpu=x86-64-v", ("x86-64-v2", "x86-64-v3")),
    ("guise run --cpu ", ("host", "max", "x86-64-v2", "x86-64-v3", "help")),
    ("guise run --cpu=h", ("host",)),
    ("guise run --engine ", ("auto", "bt", "kvm", "help")),
    ("guise run --engine=k", ("kvm",)),
    ("guise run --console ", ("stdio", "file=", "null")),
    ("guise run --console file=im", ("image",)),
    ("guise run --disk im", ("image",)),
    ("guise run --disk image,", ("readonly", "format", "serial", "cache", "discard", "io")),
    ("guise run --disk image,cache=w", ("writeback", "writethrough")),
    ("guise run --net ", ("user", "none", "help")),
    ("guise run --net user,", ("hostfwd", "mac", "mtu")),
    ("guise run --balloon ", ("on", "off", "target", "help")),
    ("guise run --balloon on,", ("target", "stats")),
    ("guise run --gdb ", ("tcp:", "unix:")),
    ("guise run --gdb=unix:im", ("image",)),
    ("guise run --trace ", ("exits", "blocks", "all", "help")),
    ("guise run --trace mmio,f", ("faults",)),
    ("guise run --trace=mmio,faults:im", ("image",)),
    ("guise run --paused --gd", ("--gdb",)),
    ("guise run --stats --net none --mem", ("--memory",)),
)
BASH = r"""
source "$0"
compopt() { :; }
COMP_WORDBREAKS=$' \t\n"\'><=;|&(:' COMP_LINE=$1 COMP_POINT=${#1}
_guise
printf '%s\n' "${COMPREPLY[@]}"
"""


def bash(line):
    return ["bash", "-c", BASH, os.path.join(COMPLETION, "guise.bash"), line]


def zsh(line):
    return ["zsh", "-f", os.path.join(HERE, "completions.zsh"), COMPLETION, line]


def fish(line):
    script = shlex.quote(os.path.join(COMPLETION, "guise.fish"))
    return ["fish", "--no-config", "-c", f"source {script}; complete -C {shlex.quote(line)}"]


def answers(t, argv):
    m = t.spawn(["sh", "-c", 'cd "$0" && HOME=$PWD exec "$@"', t.directory, *argv])
    t.equal(m.wait(10 * t.slow), 0, "the shell's exit status")
    t.equal(m.errors, "", "messages")
    return [line.split("\t")[0] for line in m.text.splitlines()]


def has(got, wanted):
    return any(re.search(rf"(^|[,:=]){re.escape(wanted)}($|=)", answer) for answer in got)


for _shell in (bash, zsh, fish):

    @test("completion-" + _shell.__name__, timeout=60, on=GUISE)
    def completion(t, shell=_shell):
        """Lines and what they must be answered; and every option of `guise help run` is offered."""
        if not shutil.which(shell.__name__):
            raise Skip(f"there is no {shell.__name__} on this host")
        t.file("image", b"")
        for line, wanted in LINES:
            got = answers(t, shell(line))
            for word in wanted:
                t.check(has(got, word), f"{line!r}: {word} is not among {got}")
        help_ = t.guise("help", "run")
        help_.wait(10 * t.slow)
        got = answers(t, shell("guise run --"))
        for option in re.findall(r"^  (--[a-z-]+)", help_.text, re.MULTILINE):
            t.check(option in got, f"{option} is not offered")
