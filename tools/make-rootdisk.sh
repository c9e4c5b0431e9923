#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes guest/out/debian.img: a whole Debian (bookworm) on a raw ext4 disk, with systemd, DHCP, a root shell on ttyS0, gcc, python3 and its test
# suite, and the kernel and initramfs that Debian's own packages make (guest/out/debian-vmlinuz, debian-initrd.img). Packages come from the
# sources that this host's apt has, or from those of a sources.list. Needs root (mmdebstrap in a directory, mke2fs -d); nothing is mounted.
# With --arch i386 all programs are 32-bit, under the same 64-bit kernel. With --kernel amd64 the kernel is the one for real machines.
#
#   tools/make-rootdisk.sh [--size 4G] [--packages "more names"] [--arch amd64|i386] [--kernel cloud-amd64|amd64]
#       [--sources LIST] [--output FILE]
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
size=4G
more=
arch=amd64
kernel=cloud-amd64
sources=
out=guest/out/debian.img
suite=bookworm

die() {
	echo "tools/make-rootdisk.sh: $*" >&2
	exit 1
}

while [ $# -gt 0 ]; do
	case "$1" in
	--size | --packages | --arch | --kernel | --sources | --output)
		[ $# -ge 2 ] || die "$1 wants a value"
		case "$1" in
		--size) size=$2 ;;
		--packages) more=$2 ;;
		--arch) arch=$2 ;;
		--kernel) kernel=$2 ;;
		--sources) sources=$(<"$2") ;;
		--output) out=$2 ;;
		esac
		shift 2
		;;
	*) die "unknown option $1; they are --size, --packages, --arch, --kernel, --sources and --output, each with a value" ;;
	esac
done

case "$arch" in
amd64) architectures=amd64 ;;
i386) architectures=i386,amd64 ;; # the kernel's package is the other one's
*) die "--arch is amd64 or i386, not $arch" ;;
esac
case "$kernel" in
cloud-amd64 | amd64) ;;
*) die "--kernel is cloud-amd64 or amd64, not $kernel" ;;
esac

[ "$(id -u)" -eq 0 ] || die "must run as root, to whom the files of the image belong: sudo make rootdisk"
for tool in mmdebstrap mke2fs; do
	command -v $tool >/dev/null || die "$tool is missing: tools/deps.sh rootdisk installs it"
done

# What apt here is configured with, whatever the format of its files.
[ -n "$sources" ] || sources=$(apt-get indextargets --format "deb \$(REPO_URI) \$(RELEASE) \$(COMPONENT)" 'Created-By: Packages' 'Origin: Debian' |
	awk -v s=$suite '$3 == s || $3 == s "-updates" || $3 == s "-security"' | sort -u)
[ -n "$sources" ] || die "apt here has no source for Debian $suite (or no lists yet: run apt-get update)"

packages=(
	systemd-sysv systemd-resolved udev dbus kmod util-linux iproute2 iputils-ping ca-certificates netbase wget procps less file
	"linux-image-$kernel:amd64" initramfs-tools zstd xz-utils 7zip openssl make
	gcc gcc-multilib libc6-dev python3 libpython3.11-testsuite luajit nodejs
)
read -ra extra <<<"$more"

mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$(dirname "$out")/rootdisk.XXXXXX")
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT
root=$work/root
# Package scripts of the target look at it: an inherited directory of the host's would not exist there.
unset TMPDIR

# Java's packages put links there.
mmdebstrap --essential-hook="mkdir -p \"\$1/usr/share/man/man1\"" --mode=root --variant=minbase --architectures="$architectures" --include="$(IFS=,; echo "${packages[*]} ${extra[*]}" | tr -s ' ' ',' | sed 's/,$//')" \
	--aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
	--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	$suite "$root" - <<<"$sources"

echo guise-debian >"$root/etc/hostname"
printf '127.0.0.1 localhost guise-debian\n::1 localhost\n' >"$root/etc/hosts"
echo '/dev/vda / ext4 defaults,discard 0 1' >"$root/etc/fstab"
cat >"$root/etc/systemd/network/80-dhcp.network" <<-END
	[Match]
	Name=en* eth*
	[Network]
	DHCP=yes
END
mkdir -p "$root/etc/systemd/system/serial-getty@ttyS0.service.d"
cat >"$root/etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf" <<-END
	[Service]
	ExecStart=
	ExecStart=-/sbin/agetty --autologin root --keep-baud 115200 - vt220
END
chroot "$root" systemctl -q enable systemd-networkd systemd-resolved serial-getty@ttyS0
chroot "$root" passwd -q -d root
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
rm -f "$root/etc/machine-id"
touch "$root/etc/machine-id"

install -m 755 guest/debian/guise-exec "$root/usr/local/sbin/"
install -m 644 guest/debian/{hello32.c,Check.java,check.go,check.pl} "$root/root/"
chroot "$root" gcc -m32 -static -O2 -o /usr/local/bin/hello32 /root/hello32.c -lm

rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
cp "$root"/boot/vmlinuz-* "${out%.img}-vmlinuz"
cp "$root"/boot/initrd.img-* "${out%.img}-initrd.img"

truncate -s "$size" "$work/disk"
mke2fs -q -t ext4 -L guise -E lazy_itable_init=0,lazy_journal_init=0,discard -d "$root" -F "$work/disk"
mv "$work/disk" "$out"
echo "Debian root disk: $out, $size ($(($(stat -c %b "$out") / 2048)) MiB used), kernel $(basename "$root"/boot/vmlinuz-*)"
