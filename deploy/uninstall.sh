#!/bin/sh
# Removes the sri-libvirt that install.sh installed. Guests run on, and the state stays: installed again, it goes on with
# its machines.
#
#   deploy/uninstall.sh                            keeps /var/lib/sri-libvirt, /etc/sri-libvirt, the group and
#                                                  /etc/ceph/sri-libvirt.conf
#   deploy/uninstall.sh --purge                    removes them too; refused while there are machines
#   deploy/uninstall.sh --purge --with-machines    ends and removes all guests first, with their disks
#
# Which guests are this store's is told by the program, while it is still there, from their marks: never by a name, and
# never while libvirt does not answer. It is asked of an empty directory, too, which may be a disk that is not mounted.
set -eu

root=/usr/local/lib/sri-libvirt
state=/var/lib/sri-libvirt
units=/etc/systemd/system
program=$root/current/bin/sri-libvirt
config=/etc/sri-libvirt/config.toml

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
ids() { [ ! -e "$state/machines" ] || find "$state/machines" -mindepth 1 -maxdepth 1 -printf '%f\n'; }

if [ "$purge" = yes ]; then
    elsewhere=$(sed -n 's/^[[:space:]]*state_dir[[:space:]]*=[[:space:]]*//p' "$config" 2>/dev/null || true)
    [ -z "$elsewhere" ] || [ "$elsewhere" = "\"$state\"" ] ||
        die "the state is in $elsewhere: run 'sri-libvirt purge' and remove it yourself. Nothing was done"
    found=$(ids) || die "$state/machines cannot be read. Nothing was done"
    [ "$machines" = remove ] || [ -z "$found" ] ||
        die "there are machines ($(echo "$found" | wc -l)): delete them, or give --with-machines. Nothing was done"
    if [ ! -e "$root" ] && [ ! -e "$state" ] && [ ! -e /etc/sri-libvirt ]; then
        say "nothing of it is here, so nothing was done"
        exit 0
    fi
    [ -x "$program" ] ||
        die "the program, which knows what is its own, is not there: install it again, then run this. Nothing was done"
    if [ "$machines" = remove ]; then
        "$program" purge --state-dir "$state" || die "what is to go cannot be told, see above. Nothing was done"
    else
        "$program" purge --none --state-dir "$state" ||
            die "that nobody needs $state cannot be told, see above. Nothing was done"
    fi
fi

for unit in machinepoollet.service sri-libvirt.service; do
    [ ! -e "$units/$unit" ] || systemctl --quiet disable --now "$unit"
done
if [ "$machines" = remove ]; then
    "$program" purge --yes --state-dir "$state" ||
        die "see above: the services are stopped, all else stays. Run this again, or systemctl enable --now sri-libvirt"
    [ -z "$(ids)" ] || die "there is something else in $state/machines: the services are stopped, all else stays"
fi
rm -f "$units/sri-libvirt.service" "$units/machinepoollet.service" /etc/tmpfiles.d/sri-libvirt.conf /run/sri-virtd.sock
rm -rf /run/sri-libvirt
systemctl daemon-reload
[ "$(readlink /usr/local/bin/sri-libvirt)" != "$root/current/bin/sri-libvirt" ] || rm -f /usr/local/bin/sri-libvirt
rm -rf "$root"
if [ "$purge" = yes ]; then
    # Network filters have no owner: those that a running guest of anybody's has stay, and say so.
    timeout 60 virsh -q -c qemu:///system nwfilter-list 2>/dev/null | sed -n 's/^.* \(sri-libvirt-[0-9][^ ]*\) *$/\1/p' |
        while read -r filter; do
            timeout 60 virsh -q -c qemu:///system nwfilter-undefine "$filter" || say "the network filter $filter stays"
        done
    rm -rf "$state" /etc/sri-libvirt
    rm -f /etc/ceph/sri-libvirt.conf
    rmdir /etc/ceph 2>/dev/null || true # there is more of Ceph on this host
    if getent group sri-libvirt >/dev/null; then groupdel sri-libvirt; fi
    say "removed, with all state"
else
    say "removed. Guests run on; state is in $state, settings are in /etc/sri-libvirt"
fi
