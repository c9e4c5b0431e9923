#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes the default guest: guest/out/vmlinuz (Debian's stock cloud kernel) and guest/out/initrd.img (busybox, the kernel's virtio modules and
# the scripts in guest/), from Debian packages, without root. The same packages give the same bytes.
#
#   tools/make-guest.sh [--check]      --check: only say whether the guest is there (exit status)
#   tools/make-guest.sh --kernel amd64 --output DIR
#                                      the same with the kernel for real machines, elsewhere
#   KERNEL_DEB=FILE BUSYBOX_DEB=FILE   use these packages instead of asking apt
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
src=guest
out=guest/out
cache=$out/packages
flavour=cloud-amd64

die() {
	echo "tools/make-guest.sh: $*" >&2
	exit 1
}

while [ $# -gt 0 ]; do
	case "$1" in
	--check)
		[ -s "$out/vmlinuz" ] && [ -s "$out/initrd.img" ]
		exit
		;;
	--kernel | --output)
		[ $# -ge 2 ] || die "$1 wants a value"
		case "$1" in
		--kernel) flavour=$2 ;;
		--output) out=$2 ;;
		esac
		shift 2
		;;
	*) die "unknown option $1; they are --check, --kernel and --output" ;;
	esac
done

for tool in dpkg-deb cpio depmod:/sbin/depmod; do
	command -v "${tool%%:*}" >/dev/null || [ -x "${tool#*:}" ] || die "${tool%%:*} is missing: tools/deps.sh guest installs it"
done
PATH=$PATH:/usr/sbin:/sbin

# apt as it is set up here; when its lists are absent or out of date, once more with lists of our own, which needs no root.
apt_options=(-qq -o APT::Architecture=amd64)
private_lists() {
	local state=$PWD/$out/apt
	mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
	apt_options+=(-o Dir::State::lists="$state/lists" -o Dir::Cache="$state/cache" -o APT::Sandbox::User=root)
	apt-get "${apt_options[@]}" update || die "apt-get update failed; look at the sources in /etc/apt and at the network"
}

kernel_name() {
	apt-cache "${apt_options[@]}" show --no-all-versions "linux-image-$flavour" 2>/dev/null |
		sed -n "s/^Depends:.*\(linux-image-[0-9][^ ,]*-$flavour\).*/\1/p"
}

# Downloads package $1 into the cache and prints its file name. A version that is in the cache already is not fetched again.
fetch() {
	local version file
	version=$(apt-cache "${apt_options[@]}" policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: //p')
	file=$cache/$1_${version//:/%3a}_amd64.deb
	if [ ! -s "$file" ]; then
		rm -f "$cache/$1"_*.deb
		(cd $cache && apt-get "${apt_options[@]}" -o APT::Sandbox::User=root download "$1") >&2 || return 1
	fi
	[ -s "$file" ] && echo "$file"
}

mkdir -p "$cache" "$out"
kernel_deb=${KERNEL_DEB-}
busybox_deb=${BUSYBOX_DEB-}
if [ -z "$kernel_deb" ] || [ -z "$busybox_deb" ]; then
	command -v apt-get >/dev/null || die "no apt-get here: name the packages, KERNEL_DEB=linux-image-*-$flavour.deb BUSYBOX_DEB=busybox-static.deb"
	[ -n "$(kernel_name)" ] || private_lists
	kernel=$(kernel_name)
	[ -n "$kernel" ] || die "apt knows no linux-image-$flavour; are Debian's sources in /etc/apt?"
	if ! { kernel_deb=${kernel_deb:-$(fetch "$kernel")} && busybox_deb=${busybox_deb:-$(fetch busybox-static)}; }; then
		private_lists
		kernel=$(kernel_name)
		kernel_deb=${kernel_deb:-$(fetch "$kernel")} || die "package $kernel cannot be downloaded"
		busybox_deb=${busybox_deb:-$(fetch busybox-static)} || die "package busybox-static cannot be downloaded"
	fi
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
dpkg-deb -x "$kernel_deb" "$work/kernel"
dpkg-deb -x "$busybox_deb" "$work/busybox"
release=$(basename "$work"/kernel/boot/vmlinuz-*)
release=${release#vmlinuz-}
modules=$work/kernel/lib/modules/$release
[ -d "$modules" ] || modules=$work/kernel/usr/lib/modules/$release
[ -d "$modules" ] || die "no modules for $release in $kernel_deb"

root=$work/root
mkdir -p "$root"/{bin,dev,etc/acpi/PWRF,etc/guise,lib/modules,mnt,proc,root,run,sys,tmp,usr,var}
ln -s bin "$root/sbin"
ln -s ../bin "$root/usr/bin"
ln -s ../bin "$root/usr/sbin"

# /usr/bin in packages of a merged-/usr archive, /bin before.
busybox=$(find "$work/busybox" -type f -path '*/bin/busybox' | head -n 1)
install -m 755 "$busybox" "$root/bin/busybox"
"$root/bin/busybox" --list | while read -r applet; do
	[ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done

install -m 755 $src/init "$root/init"
install -m 755 $src/{rc,session,end,udhcpc} "$root/etc/guise/"
install -m 644 $src/{inittab,profile} "$root/etc/"
install -m 755 $src/power-button "$root/etc/acpi/PWRF/00000080"
grep -v '^#' $src/modules >"$root/etc/guise/modules"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
printf '127.0.0.1 localhost guise\n::1 localhost\n' >"$root/etc/hosts"

# Modules by name, with what they depend on. Built-in ones have no file, which is as good.
decompress() {
	case "$1" in
	*.xz) xz -d -q "$1" ;;
	*.zst) zstd -d -q --rm "$1" ;;
	*.gz) gzip -d "$1" ;;
	esac
}
depmod -b "${modules%/lib/modules/*}" "$release"
target=$root/lib/modules/$release
mkdir -p "$target"
cp "$modules"/modules.{builtin,builtin.modinfo,order} "$target/"
{
	cat "$root/etc/guise/modules"
	sed -n 's/^# on demand: //p' $src/modules | tr ' ' '\n'
} | while read -r name; do
	pattern="/${name//[-_]/[-_]}\.ko(\.[a-z]+)?:"
	line=$(grep -E "$pattern" "$modules/modules.dep" || true)
	if [ -z "$line" ]; then
		grep -qE "/${name//[-_]/[-_]}\.ko" "$modules/modules.builtin" || die "kernel $release has no module $name"
		continue
	fi
	for file in ${line//:/ }; do
		[ -e "$target/${file%.[xzg]*}" ] && continue
		install -D -m 644 "$modules/$file" "$target/$file"
		decompress "$target/$file"
	done
done
depmod -b "$root" "$release"
# The binary indexes and the symbol tables are for kmod; busybox reads modules.dep and modules.alias.
rm -f "$target"/modules.*.bin "$target"/modules.{builtin.modinfo,order,devname,softdep,symbols,weakdep}

# Not compressed: it is read from the page cache of the host, and unpacking would be the guest's time at every boot.
find "$root" -exec touch -h -d "@${SOURCE_DATE_EPOCH:-0}" {} +
(cd "$root" && find . -mindepth 1 -printf '%P\n' | LC_ALL=C sort | cpio --quiet --reproducible -o -H newc -R 0:0) >"$work/initrd.img"

install -m 644 "$work"/kernel/boot/vmlinuz-* "$out/vmlinuz.new"
install -m 644 "$work/initrd.img" "$out/initrd.img.new"
mv "$out/vmlinuz.new" "$out/vmlinuz"
mv "$out/initrd.img.new" "$out/initrd.img"
echo "$release" >"$out/release"
echo "default guest: kernel $release ($(($(stat -c %s "$out/vmlinuz") / 1048576)) MiB), initramfs $(($(stat -c %s "$out/initrd.img") / 1024)) KiB, in $out"
