#!/bin/sh
# Removes the sri-libvirt that install.sh installed. Guests run on, and the state stays: installed again, it goes on with
# its machines.
#
#   deploy/uninstall.sh                            keeps /var/lib/sri-libvirt, /etc/sri-libvirt and the group
#   deploy/uninstall.sh --purge                    removes them too; refused while there are machines
#   deploy/uninstall.sh --purge --with-machines    ends and removes all guests first, with their disks
set -eu

root=/usr/local/lib/sri-libvirt
state=/var/lib/sri-libvirt
units=/etc/systemd/system
uri=qemu:///system

say() { echo "uninstall: $*"; }

die() {
    echo "uninstall: $*" >&2
    exit 1
}

purge=no machines=keep
for word; do
    case $word in
    --purge) purge=yes ;;
    --with-machines) machines=remove ;;
    *)
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2
        exit 2
        ;;
    esac
done
[ "$(id -u)" = 0 ] || die "this is for root"
[ "$machines" = keep ] || [ "$purge" = yes ] || die "--with-machines goes with --purge"

# Directories, not the store: they are there for every machine, and can be read when the program is not there any more.
ids() { find "$state/machines" -mindepth 1 -maxdepth 1 -printf '%f\n' 2>/dev/null || true; }

if [ "$purge" = yes ] && [ "$machines" = keep ] && [ -n "$(ids)" ]; then
    die "there are machines ($(ids | wc -l)): delete them through the SRI, or give --with-machines. Nothing was done"
fi

for unit in machinepoollet.service sri-libvirt.service; do
    [ ! -e "$units/$unit" ] || systemctl --quiet disable --now "$unit"
done
rm -f "$units/sri-libvirt.service" "$units/machinepoollet.service" /etc/tmpfiles.d/sri-libvirt.conf /run/sri-virtd.sock
rm -rf /run/sri-libvirt
systemctl daemon-reload

if [ "$machines" = remove ]; then
    for id in $(ids); do
        virsh -q -c $uri destroy "$id" >/dev/null 2>&1 || true
        if virsh -q -c $uri domuuid "$id" >/dev/null 2>&1; then
            virsh -q -c $uri undefine "$id" --managed-save --snapshots-metadata --checkpoints-metadata --nvram ||
                die "the domain of machine $id cannot be removed; its state and everything else stays"
        fi
        say "machine $id is gone"
    done
fi
[ "$(readlink /usr/local/bin/sri-libvirt)" != "$root/current/bin/sri-libvirt" ] || rm -f /usr/local/bin/sri-libvirt
rm -rf "$root"
if [ "$purge" = yes ]; then
    rm -rf "$state" /etc/sri-libvirt
    if getent group sri-libvirt >/dev/null; then groupdel sri-libvirt; fi
    say "removed, with all state"
else
    say "removed. Guests run on; state is in $state, settings are in /etc/sri-libvirt"
fi
