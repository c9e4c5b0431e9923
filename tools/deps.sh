#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs the Debian packages that a group of targets needs; quick and silent when all are there.
#   tools/deps.sh build|guest|test|bench|rootdisk|dev ...
#   tools/deps.sh --list GROUP...     only print the names
#   tools/deps.sh --check GROUP...    print what is missing, exit 1 if anything is
set -euo pipefail

# cmocka stands with the build: the unit tests are configured with every build.
declare -A GROUPS_OF=(
	[build]="build-essential meson ninja-build pkg-config python3 libzydis-dev libslirp-dev liburing-dev liblz4-dev libzstd-dev zlib1g-dev liblzma-dev libcmocka-dev acpica-tools"
	[guest]="cpio kmod"
	[test]="e2fsprogs iproute2"
	[bench]="qemu-system-x86 util-linux e2fsprogs"
	[rootdisk]="mmdebstrap arch-test e2fsprogs gcc-multilib"
	[dev]="clang clang-format clang-tidy gcovr shellcheck mandoc libclang-rt-14-dev zsh fish"
)

usage() {
	echo "usage: tools/deps.sh [--list|--check] GROUP...   groups: $(printf '%s\n' "${!GROUPS_OF[@]}" | sort | xargs)" >&2
	exit 2
}

mode=install
case "${1-}" in
--list | --check)
	mode=${1#--}
	shift
	;;
esac
[ $# -gt 0 ] || usage

wanted=()
for group in "$@"; do
	[ -n "${GROUPS_OF[$group]-}" ] || usage
	read -ra names <<<"${GROUPS_OF[$group]}"
	wanted+=("${names[@]}")
done

if [ "$mode" = list ]; then
	printf '%s\n' "${wanted[@]}" | sort -u
	exit 0
fi

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
	echo "tools/deps.sh: this host has no apt-get; make sure that it has what these Debian packages hold: ${wanted[*]}" >&2
	exit 0
fi

installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "${wanted[@]}" 2>/dev/null | awk '$2 == "installed" { print $1 }' || true)
missing=()
for name in "${wanted[@]}"; do
	grep -qxF -- "$name" <<<"$installed" || missing+=("$name")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$mode" = check ]; then
	printf '%s\n' "${missing[@]}"
	exit 1
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
	if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
		as_root=(sudo)
	else
		echo "tools/deps.sh: packages are missing and this user can install none (not root, no usable sudo)." >&2
		echo "Run this as root, then try again:  apt-get install --no-install-recommends ${missing[*]}" >&2
		exit 1
	fi
fi

echo "installing: ${missing[*]}"
install() {
	"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
}
# The lists may be absent (container images) or older than the archive (404): one update, one more try.
if ! install >/dev/null 2>&1; then
	"${as_root[@]}" apt-get update -q
	install
fi
