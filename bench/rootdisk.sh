#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Whole programs of the Debian root disk, each run once and its output checked by digest: prints the lines that bench/run.py reads.
# shellcheck disable=SC2016
# The same script runs in a chroot for the native figures. $1: percent of work (below 50: a smaller input).
percent=${1:-100}
cd /tmp || exit 1
if [ "$percent" -lt 50 ]; then mb=4; else mb=16; fi
python3 - "$mb" <<'END'
import random, sys
r = random.Random(7)
words = ["".join(r.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(r.randint(2, 9))) for _ in range(4000)]
with open("/tmp/text", "w") as f:
    size = 0
    while size < int(sys.argv[1]) << 20:
        line = " ".join(r.choice(words) for _ in range(12))
        size += f.write(line + "\n")
END

# part NAME COMMAND: the digest of its output is the result.
part() {
	begin=$(date +%s%N)
	eval "$2" >/tmp/result 2>/tmp/errors || {
		echo "wrong $1"
		cat /tmp/errors
		exit 1
	}
	end=$(date +%s%N)
	echo "bench $1 $((end - begin)) 1 $((0x$(sha256sum </tmp/result | cut -c1-12)))"
}

part xz 'head -c 4000000 text | xz -T1 -3 -c'
part zstd 'zstd -q -T1 --single-thread -9 -c text'
part 7z '7zz a -mmt1 -mx3 -si -so -txz x <text'
part gzip 'gzip -n -6 -c text'
part gcc 'for i in 1 2 3; do gcc -O2 -S -o - /root/hello32.c -D_N=$i; done'
part python3 'python3 -c "
d = {}
s = 0
for i in range(700000):
    s = (s * 31 + i) % 1000003
    d[s % 5000] = d.get(s % 5000, 0) + i
print(s, len(d), sum(d.values()))"'
part node 'node -e "
function f(n) { return n < 2 ? n : f(n - 1) + f(n - 2) }
let s = 0, a = new Float64Array(1000)
for (let i = 0; i < 2e7; i++) { s = (s * 31 + i) % 1000003; a[s % 1000] += i }
console.log(f(32), s, a[17])"'
part luajit 'luajit -e "local s = 0 for i = 0, 3e7 do s = (s * 31 + i) % 1000003 end print(s)"'
part openssl-sha256 'for i in 1 2 3 4; do openssl sha256 -r <text; done'
part openssl-aes 'for i in 1 2 3 4 5 6; do openssl enc -aes-128-ctr -K 000102030405060708090a0b0c0d0e0f -iv 00000000000000000000000000000000 -in text | tail -c 64; done'
part python3-start 'for i in 1 2 3 4 5 6 7 8; do python3 -c "import json, re; print(json.dumps([$i]))"; done'
