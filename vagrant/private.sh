#!/bin/sh
# Inside the namespaces of a virtual machine that has a libvirtd of its own: starts it and holds them open.
# usage: unshare --mount --net --pid --fork --mount-proc tini -- private.sh BASE kvm|qemu
# Everything in them ends with tini, the first process of their process namespace. vm.sh starts and ends it.
set -eu

. "$(dirname "$0")/private-mounts.sh"
private_mounts "$1"
[ "$2" = kvm ] || hide_kvm "$1"
ip link set lo up
virtlogd --daemon --pid-file "$1/run/virtlogd.pid"
libvirtd --daemon --pid-file "$1/run/libvirtd.pid"
exec sleep infinity
