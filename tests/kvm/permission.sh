#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A user without rights to /dev/kvm is told the command that gives them, and gets another engine unless KVM was asked for. In a machine of tools/nested.py.
set -eu

echo 'nobody:x:65534:65534::/:/bin/sh' >>/etc/passwd
echo 'kvm:x:104:' >>/etc/group
cp "$(which guise)" /tmp/guise
chmod 755 /tmp/guise

# expect TEXT ARGUMENT...: nobody's Guise says it.
expect() {
	text=$1
	shift
	said=$(su -s /bin/sh nobody -c "/tmp/guise $*" 2>&1 </dev/null || true)
	case $said in
	*"$text"*) echo "ok: $text" ;;
	*) echo "'guise $*' did not say '$text' but: $said"; exit 1 ;;
	esac
}

chmod 600 /dev/kvm
expect "/dev/kvm cannot be opened: permission denied; give yourself access: sudo setfacl -m u:\$USER:rw /dev/kvm" doctor
chgrp kvm /dev/kvm
chmod 660 /dev/kvm
expect "engine bt: /dev/kvm cannot be opened: permission denied; join its group: sudo usermod -aG kvm \$USER, and log in again" doctor
expect "--engine kvm: /dev/kvm cannot be opened: permission denied" run --engine kvm --kernel /nothing
chmod 666 /dev/kvm
expect "engine kvm: this CPU has hardware virtualization and /dev/kvm works" doctor
