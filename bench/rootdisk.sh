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

python3 - >/tmp/large.c <<'END'
import random
r = random.Random(11)
print("struct node { struct node *next, *prev; long key; unsigned char tag; double w; int v[4]; };")
def expr(d):
    if d == 0:
        return r.choice(["a", "b", "c", "n->key", "n->v[a & 3]", "(long)n->tag", "t[b & 15]", str(r.randint(1, 999))])
    return "(%s %s %s)" % (expr(d - 1), r.choice("+-*^&|"), expr(r.randint(0, d - 1)))
for k in range(150):
    print("static long g%d;\nlong f%d(struct node *n, long a, long b)\n{\n\tlong t[16] = {0}, c = a - b;\n\tc += %s;" % (k, k, expr(2)))
    for i in range(r.randint(3, 7)):
        w = r.randint(0, 4)
        if w == 0:
            print("\tfor (long i = 0; i < (a & 63); i++)\n\t\tt[i & 15] += %s;" % expr(2))
        elif w == 1:
            print("\tif (%s > %s)\n\t\tc += %s;\n\telse\n\t\tb = %s;" % (expr(1), expr(1), expr(2), expr(1)))
        elif w == 2:
            print("\tswitch (%s & 7) {" % expr(1))
            for j in range(6):
                print("\tcase %d:\n\t\ta ^= %s;\n\t\tbreak;" % (j, expr(1)))
            print("\t}")
        elif w == 3:
            print("\twhile (n->next && n->key != %s) {\n\t\tn = n->next;\n\t\tc += n->v[%d];\n\t}" % (expr(1), r.randint(0, 3)))
        else:
            print("\tg%d += %s;\n\tn->w = n->w * %d + (double)c;" % (k, expr(2), r.randint(2, 9)))
    if k:
        print("\tif (c & 1)\n\t\tc += f%d(n, b, c);" % r.randint(0, k - 1))
    print("\treturn c + t[a & 15];\n}\n")
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
part gcc-large 'gcc -O2 -S -o - large.c'
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
