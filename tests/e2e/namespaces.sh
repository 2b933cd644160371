#!/bin/sh
# The inside of one private libvirtd: mount and network namespaces with directories, /dev, /sys and loopback of their own.
# usage: tini -s -- unshare -m -n sh namespaces.sh BASE
# Prints "ready", then starts each line of its standard input as a command. When the input ends (the test process may
# have been killed) it ends every process of the network namespace and removes the guests' cgroups.
# tini is a child subreaper: QEMU, orphaned when libvirtd dies or daemonises it, is reaped at once, so destroy is fast.
set -eu
base=$1

. "$(dirname "$0")/../../vagrant/private-mounts.sh"
private_mounts "$base"
hide_kvm "$base"

ip link set lo up
echo ready

while read -r line; do
    setsid sh -c "exec $line" </dev/null >>"$base/daemons.log" 2>&1 &
done

# Whatever lives in this network namespace was started here: daemons, guests, dnsmasq, a provider under test.
mine=$(readlink /proc/self/ns/net)
others() {
    for process in /proc/[0-9]*; do
        pid=${process#/proc/}
        [ "$pid" = $$ ] || [ "$(readlink "$process/ns/net" 2>/dev/null)" != "$mine" ] || echo "$pid"
    done
}
for round in 1 2 3 4 5 6 7 8 9 10; do
    # The subshell of others() is in the list, and gone by now: kill may fail.
    kill -KILL $(others) 2>/dev/null || true
    wait
    ls "$base/log/qemu" 2>/dev/null | sed -n 's/\.log$//p' | cut -c1-20 | while read -r name; do
        find "$base/cgroup" -depth -type d -path "*/machine/qemu-*-$name*" -exec rmdir {} + 2>/dev/null || true
    done
    left=$(ls "$base/log/qemu" 2>/dev/null | sed -n 's/\.log$//p' | cut -c1-20 | while read -r name; do
        find "$base/cgroup" -type d -path "*/machine/qemu-*-$name*" 2>/dev/null
    done)
    [ -n "$left" ] || break
    sleep 0.1
done
# The mounts end with the namespace; the files would stay if the test process was killed.
umount -l "$base/cgroup"
rm -rf --one-file-system "$base"
