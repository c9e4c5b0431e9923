#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Fetches what else than the default guest boots from Debian's packages: the kernel for real machines with an initramfs of its own modules,
# the Xen hypervisor, GNU Mach and memtest86+. Needs no root. They go into guest/out/others, where tests/linux/run.py looks for them.
#
#   tools/make-others.sh [--output DIR]
#   KERNEL_DEB=FILE BUSYBOX_DEB=FILE   as for tools/make-guest.sh
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=guest/out/others
packages=(xen-hypervisor-4.17-amd64 gnumach-image-1.8-486 memtest86+)

die() {
	echo "tools/make-others.sh: $*" >&2
	exit 1
}

case "${1-}" in
'') ;;
--output)
	[ $# -eq 2 ] || die "--output wants a directory"
	out=$2
	;;
*) die "unknown option $1; there is only --output DIR" ;;
esac

mkdir -p "$out"
tools/make-guest.sh --kernel amd64 --output "$out"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && apt-get -qq -o APT::Architecture=amd64 -o APT::Sandbox::User=root download "${packages[@]}") ||
	die "cannot download ${packages[*]}; run apt-get update, and look at the sources in /etc/apt"
for deb in "$work"/*.deb; do
	dpkg-deb -x "$deb" "$work/root"
done
gunzip -c "$work"/root/boot/xen-4.17-amd64.gz >"$out/xen"
gunzip -c "$work"/root/boot/gnumach-*.gz >"$out/gnumach"
install -m 644 "$work/root/boot/memtest86+x64.bin" "$out/memtest"
echo "other kernels: $(cd "$out" && stat -c '%n' vmlinuz initrd.img xen gnumach memtest | xargs), in $out"
