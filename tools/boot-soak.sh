#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Boots the default guest N times (100), two at a time, and has every guest compute on each CPU, write its disk, use the
# network and power off. The first boot that does not end well stops the rest; its console stays in the directory that is named.
#   CPUS="1 2 4" JOBS=1 tools/boot-soak.sh [N] [PROGRAM]      CPUS: numbers of CPUs, taken in turn (1); JOBS: at a time (2)
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
count=${1:-100}
program=${2:-build/guise}
cpu_counts=${CPUS:-1}
logs=$(mktemp -d -t guise-soak.XXXXXX)
# shellcheck disable=SC2016 # the guest's own
script='for c in $(seq $(nproc)); do seq 1 20000 | sha256sum & done; wait; echo cpus $(nproc); cat /proc/uptime; dd if=/dev/urandom of=/dev/vda bs=64k count=16 2>/dev/null; sync
dd if=/dev/vda bs=64k count=16 2>/dev/null | sha256sum; ping -c 1 -W 5 10.0.2.2'
wanted=$(seq 1 20000 | sha256sum | cut -d' ' -f1)
encoded=$(base64 -w0 <<<"$script")

[ -x "$program" ] || {
	echo "tools/boot-soak.sh: $program is not there: run make" >&2
	exit 1
}

boot() {
	local i=$1 log=$logs/$1.log disk=$logs/$1.disk status=0 counts cpus
	read -ra counts <<<"$cpu_counts"
	cpus=${counts[i % ${#counts[@]}]}
	truncate -s 4M "$disk"
	"$program" run --kernel guest/out/vmlinuz --initrd guest/out/initrd.img --append "console=ttyS0 quiet guise.exec=$encoded" \
		--memory 256M --cpus "$cpus" --disk "$disk" --net user --timeout 120 </dev/null >"$log" 2>&1 || status=$?
	if [ $status -ne 0 ] || [ "$(grep -c "$wanted" "$log")" -ne "$cpus" ] || ! grep -q "^cpus $cpus" "$log" || ! grep -q 'guise: exec status 0' "$log"; then
		echo "boot $i with $cpus CPUs: exit status $status; console: $log"
		tail -n 30 "$log"
		return 1
	fi
	if grep -E 'BUG:|Oops|soft lockup|rcu.*stall|hung_task|WARNING:' "$log"; then
		echo "boot $i: the guest complained; console: $log"
		return 1
	fi
	rm -f "$log" "$disk"
}

begin=$SECONDS
one() {
	boot "$1" || exit 255
}
export -f boot one
export logs program encoded wanted cpu_counts
if ! seq 1 "$count" | xargs -P "${JOBS:-2}" -I{} bash -c 'one {}'; then
	echo "soak: failed"
	exit 1
fi
rmdir "$logs"
echo "soak: $count boots ended well in $((SECONDS - begin)) s"
