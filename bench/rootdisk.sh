#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Whole programs of the Debian root disk, on one CPU, in a machine or in a chroot; what they work on is in this script's directory (bench/inputs.py
# makes it). Each runs twice: `bench NAME.cold` is the first time since the machine started, `bench NAME` the second. The digest of its output is its
# result. What has run before in another way is timed once. $1: percent of work. Programs that the disk lacks are left out.
# shellcheck disable=SC2016,SC2034,SC2086
percent=${1:-100}
cd "$(dirname "$0")" || exit 1

scaled() {
	echo $((($1 * percent + 99) / 100))
}

fail() {
	echo "wrong $1"
	cat errors
	exit 1
}

# The files of the programs come into the page cache now: a first run is to be slow for the sake of its code only.
read_files() {
	for program in "$@"; do
		path=$(command -v "$program") || return 1
		ldd "$path" 2>/dev/null | sed -n 's|.*[ \t]\(/[^ ]*\) (.*|\1|p' | xargs cat "$path" >/dev/null
	done
}

# timed NAME COMMAND [MORE]: the time is that of COMMAND; the output of MORE, which is not timed, counts as well.
timed() {
	begin=$(date +%s%N)
	eval "$2" >result 2>errors || fail "$1"
	end=$(date +%s%N)
	[ -z "$3" ] || eval "$3" >>result 2>errors || fail "$1"
	echo "bench $1 $((end - begin)) 1 $((0x$(sha256sum <result | cut -c1-12)))"
}

# part NAME "PROGRAMS" COMMAND [MORE]
part() {
	if read_files $2; then
		timed "$1.cold" "$3" "$4"
		timed "$1" "$3" "$4"
	else
		echo "absent $1"
	fi
}

redis() {
	redis-server --port 0 --unixsocket "$PWD/redis.sock" --save '' --logfile redis.log &
	server=$!
	until [ "$(redis-cli -s redis.sock ping 2>/dev/null)" = PONG ]; do
		kill -0 $server || return 1
		sleep 0.02
	done
	redis-benchmark -s redis.sock -n "$requests" -c 8 -q -t set,get,incr,lpush >/dev/null
	redis-cli -s redis.sock get counter:__rand_int__
	redis-cli -s redis.sock llen mylist
	redis-cli -s redis.sock shutdown nosave
	wait $server
}

part xz xz 'head -c $(scaled 1000000) text | xz -T1 -3 -c'
part zstd zstd 'zstd -q -T1 --single-thread -9 -c text'
part 7z 7zz 'head -c $(scaled 3000000) text | 7zz a -mmt1 -mx3 -si -so -txz x'
part gzip gzip 'gzip -n -6 -c text'
part gcc-large "gcc $(gcc -print-prog-name=cc1)" 'gcc -O2 -S -o - large.c'
timed gcc 'for i in 1 2 3; do gcc -O2 -S -o - /root/hello32.c -D_N=$i; done'

loops=$(scaled 1400000)
part python3 python3 'python3 -c "
d = {}
s = 0
for i in range($loops):
    s = (s * 31 + i) % 1000003
    d[s % 5000] = d.get(s % 5000, 0) + i
print(s, len(d), sum(d.values()))"'
loops=$(scaled 40000000)
part node node 'node -e "
function f(n) { return n < 2 ? n : f(n - 1) + f(n - 2) }
let s = 0, a = new Float64Array(1000)
for (let i = 0; i < $loops; i++) { s = (s * 31 + i) % 1000003; a[s % 1000] += i }
console.log(f(32), s, a[17])"'
loops=$(scaled 60000000)
part luajit luajit 'luajit -e "local s = 0 for i = 0, $loops do s = (s * 31 + i) % 1000003 end print(s)"'
timed python3-start 'for i in 1 2 3 4 5 6 7 8; do python3 -c "import json, re; print(json.dumps([$i]))"; done'

key='-aes-128-ctr -K 000102030405060708090a0b0c0d0e0f -iv 00000000000000000000000000000000'
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do cat text; done >large
part openssl-sha256 openssl 'openssl sha256 -r large'
part openssl-aes openssl 'openssl enc $key -bufsize 1048576 -in large -out /dev/null' 'openssl enc $key -in text'
rm large
part x264 x264 'x264 --quiet --threads 1 --input-res 640x360 --fps 25 -o video.264 video.yuv' 'cat video.264'
part sqlite3 sqlite3 'sqlite3 :memory: <queries.sql'
requests=$(scaled 4000)
part redis "redis-server redis-cli redis-benchmark" redis
