# The directories of a libvirtd of one's own, for scripts in mount, network and possibly process namespaces of their own:
# `. private-mounts.sh`, then `private_mounts BASE` and, where guests shall not have KVM, `hide_kvm BASE`. BASE holds etc,
# lib, cache, log and run afterwards, which are what libvirt has below /etc, /var and /run.
# shellcheck shell=sh

private_mounts() {
    mount --make-rprivate /
    for pair in etc:/etc/libvirt lib:/var/lib/libvirt cache:/var/cache/libvirt log:/var/log/libvirt run:/run/libvirt; do
        mkdir -p "$1/${pair%:*}" "${pair#*:}"
        mount --bind "$1/${pair%:*}" "${pair#*:}"
    done
    # The host's machined and firewalld are reached by D-Bus: these guests must not appear there.
    [ ! -d /run/dbus ] || mount -t tmpfs tmpfs /run/dbus

    # A new sysfs shows this network namespace's links; it comes without the cgroups, which libvirt needs.
    mkdir -p "$1/cgroup"
    mount --rbind /sys/fs/cgroup "$1/cgroup"
    mount -t sysfs sysfs /sys
    mount --rbind "$1/cgroup" /sys/fs/cgroup
}

# /dev without kvm: where KVM is offered but unusable, libvirt probes QEMU again at every define (a minute each).
hide_kvm() {
    mkdir -p "$1/dev"
    mount -t tmpfs -o mode=755 tmpfs "$1/dev"
    for node in null zero full random urandom tty ptmx fuse fd stdin stdout stderr; do
        [ ! -e "/dev/$node" ] || cp -a "/dev/$node" "$1/dev/$node"
    done
    mkdir "$1/dev/net"
    cp -a /dev/net/tun "$1/dev/net/tun"
    # Mounts below the old /dev must move, not stay hidden: libvirt looks at every line of /proc/mounts.
    for directory in pts shm mqueue; do
        [ -d "/dev/$directory" ] || continue
        mkdir "$1/dev/$directory"
        mount --move "/dev/$directory" "$1/dev/$directory" 2>/dev/null ||
            mount --bind "/dev/$directory" "$1/dev/$directory"
    done
    sed -n 's|^[^ ]* \(/dev/[^ ]*\) .*|\1|p' /proc/mounts | while read -r hidden; do umount -l "$hidden"; done
    mount --move "$1/dev" /dev
}
