#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run the guest `chaos`, random code in every ring, with one seed after the other, and see that the VMM lives.

How the guest ends is its own affair: it may pass, crash, hang or switch itself off. Guise must end by itself, without a signal, without saying that it is
its own fault, and without a word from a sanitizer. A seed that fails is printed; --seed N --runs 1 repeats it.

Exit status: 0 all lived, 77 the engine is refused here, 1 otherwise.
"""
import argparse
import concurrent.futures
import re
import subprocess
import sys
import time

LIMIT = 4 # seconds that one guest gets: many hang
PATIENCE = 60 # and Guise to end then
BAD_WORDS = re.compile(r"AddressSanitizer|LeakSanitizer|ThreadSanitizer|runtime error|[Aa]ssertion|internal error")
ENDS = {1: "crashed or halted", 33: "passed", 35: "lost its way", 124: "hung"}
SKIPPED = 77


def command(args, engine, seed):
    return [args.guise, "run", "--engine", engine, "--kernel", args.guest, "--memory", "128M", "--cpus", str(1 + seed % 2),
            "--append", f"seed={seed} rounds={args.rounds}", "--exit-port", "0xf4", "--console", "null", "--no-reboot", "--net", "user",
            "--timeout", str(LIMIT)]


def run(args, engine, seed):
    """(how it ended, what was wrong or None)"""
    try:
        done = subprocess.run(command(args, engine, seed), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                              timeout=LIMIT + PATIENCE)
    except subprocess.TimeoutExpired:
        return "stuck", "it did not end when its time was over"
    status, stderr = done.returncode, done.stderr
    if status < 0:
        return "killed", f"ended by signal {-status}: {stderr[-2000:]}"
    if status in (2, 125) or BAD_WORDS.search(stderr):
        return "failed", f"status {status}: {stderr[-4000:]}"
    return ENDS.get(status, "switched itself off"), None


def refused(args, engine):
    """Engines that this host does not let run."""
    done = subprocess.run(command(args, engine, 1)[:-2] + ["--timeout", "1"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return "a process that is to execute guest code directly" in done.stderr


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--guise", required=True)
    p.add_argument("--engine", default="bt", help="names, comma-separated")
    p.add_argument("--seed", type=int, default=1, help="the first")
    p.add_argument("--runs", type=int, default=8, help="of each engine")
    p.add_argument("--seconds", type=float, help="go on for so long instead")
    p.add_argument("--rounds", type=int, default=300, help="of one guest")
    p.add_argument("--jobs", type=int, default=1)
    p.add_argument("guest")
    args = p.parse_args()
    engines = [e for e in args.engine.split(",") if not refused(args, e)]
    if not engines:
        return SKIPPED
    end = time.monotonic() + args.seconds if args.seconds else None
    ends, failed, seed = {}, 0, args.seed

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        while time.monotonic() < end if end else seed < args.seed + args.runs:
            tasks = [(e, s, pool.submit(run, args, e, s)) for s in range(seed, seed + args.jobs) for e in engines]
            for engine, at, task in tasks:
                how, wrong = task.result()
                ends[how] = ends.get(how, 0) + 1
                if wrong:
                    failed += 1
                    print(f"FAILED: --engine {engine} --seed {at} --rounds {args.rounds}: {wrong}", flush=True)
            seed += args.jobs
    print(f"chaos: {sum(ends.values())} guests, {failed} failed; " + ", ".join(f"{n} {how}" for how, n in sorted(ends.items())))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
