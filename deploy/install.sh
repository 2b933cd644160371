#!/bin/sh
# Installs sri-libvirt on this host as a service of systemd, or upgrades it. Guests are not touched.
#
#   deploy/install.sh [OPTION]... [WHEEL]
#
# Without WHEEL the tree that this script is in is installed. Each release is an environment of its own in
# /usr/local/lib/sri-libvirt/releases; `current` is the one in use. An upgrade first makes a verified backup of the
# store, and goes back to the release before it if the new one does not come up.
#
#   --wheels DIR        take dependencies from this directory of wheels, not from a package index; without WHEEL it must
#                       hold hatchling, too
#   --dependencies-of PYTHON   use those of this interpreter's environment, which must stay where it is (and hatchling
#                       in it, without WHEEL)
#   --no-packages       do not install packages of the distribution
#   --no-start          install alone; start nothing
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tree=${here%/*}
root=/usr/local/lib/sri-libvirt
units=/etc/systemd/system
group=sri-libvirt
keep=3

say() { echo "install: $*"; }

die() {
    echo "install: $*" >&2
    exit 1
}

source=$tree wheels='' lender='' packages=yes start=yes
while [ $# -gt 0 ]; do
    case $1 in
    --wheels) wheels=$(cd "$2" && pwd) && shift ;;
    --dependencies-of) lender=$2 && shift ;;
    --no-packages) packages=no ;;
    --no-start) start=no ;;
    -*)
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2
        exit 2
        ;;
    *)
        [ -f "$1" ] || die "there is no wheel $1"
        source=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
        ;;
    esac
    shift
done
[ "$(id -u)" = 0 ] || die "this is for root"
[ -d /run/systemd/system ] || die "systemd does not run here; see 'make run', or deploy/kubernetes"

pip() { "${lender:-$release/bin/python}" -m pip --python "$release/bin/python" -q --disable-pip-version-check "$@"; }

make_release() { # in $release, which nothing uses yet
    python3 -m venv ${lender:+--without-pip} "$release"
    if [ -n "$lender" ]; then
        # Directories that are named here are searched, their own .pth files are not read.
        "$lender" -c 'import sysconfig; print(sysconfig.get_path("purelib")); print(sysconfig.get_path("platlib"))' \
            >"$("$release/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dependencies.pth"
        pip install --no-deps --no-index --no-build-isolation "$source"
    elif [ -n "$wheels" ]; then
        pip install --no-index --find-links "$wheels" "$source"
    else
        pip install "$source"
    fi
    cp "$tree/README.md" "$release/"
    "$release/bin/sri-libvirt" version >/dev/null
}

use() { # RELEASE: from now on, in one step
    ln -sfn "$1" "$root/current.new"
    mv -T "$root/current.new" "$root/current"
}

backup() {
    [ -e /var/lib/sri-libvirt/store/state.sqlite ] || return 0
    say "backing the store up"
    "$root/current/bin/sri-libvirt" store backup || die "no backup, so no upgrade: see 'sri-libvirt store check'"
}

releases() { # all of them, oldest first: by their numbers; those of the first versions have none, and a wall clock's stamp
    names=$(ls "$root/releases")
    echo "$names" | grep -v '^[0-9]\{6\}-' | sort
    echo "$names" | grep '^[0-9]\{6\}-' | sort
}

next_release() { # a wall clock that was set says nothing of their order
    last=$(releases | sed -n 's/^0*\([0-9]\{1,6\}\)-.*/\1/p' | tail -n 1)
    printf '%s/releases/%06d-%s\n' "$root" $((${last:-0} + 1)) "$(date -u +%Y%m%dT%H%M%SZ)"
}

come_up() { systemctl restart sri-libvirt.service; }

if [ "$packages" = yes ]; then
    "$tree/vagrant/provision.sh" runtime
fi
getent group "$group" >/dev/null || groupadd --system "$group"

umask 022
old=$(readlink "$root/current" || true)
mkdir -p "$root/releases"
release=$(next_release)
say "making $release"
trap 'rm -rf "$release"' EXIT
make_release
if [ -n "$old" ]; then backup; fi
trap - EXIT

use "$release"
ln -sfn "$root/current/bin/sri-libvirt" /usr/local/bin/sri-libvirt
install -m 644 "$here/systemd/sri-libvirt.service" "$here/systemd/machinepoollet.service" "$units/"
install -D -m 644 "$here/systemd/sri-libvirt.tmpfiles.conf" /etc/tmpfiles.d/sri-libvirt.conf
if [ ! -e /etc/sri-libvirt/config.toml ]; then
    install -D -m 644 "$here/config.toml" /etc/sri-libvirt/config.toml
fi
if [ ! -e /etc/ceph/sri-libvirt.conf ]; then
    install -D -m 644 "$here/ceph.conf" /etc/ceph/sri-libvirt.conf
fi
systemctl daemon-reload
systemd-tmpfiles --create /etc/tmpfiles.d/sri-libvirt.conf
systemctl --quiet enable sri-libvirt.service
[ "$start" = yes ] || {
    say "installed; start it with: systemctl start sri-libvirt"
    exit 0
}

say "starting"
if ! come_up; then
    journalctl --unit sri-libvirt --lines 20 --no-pager --output cat >&2 || true
    [ -d "${old:-/nowhere}" ] || die "it does not come up; what it said is above"
    use "$old"
    come_up || die "neither release comes up. If the store was migrated: sri-libvirt store restore FILE (store backups)"
    rm -rf "$release"
    die "the new release does not come up; what it said is above. Back to $old"
fi
releases | head -n -"$keep" | while read -r unused; do
    [ "$root/releases/$unused" = "$release" ] || rm -rf "$root/releases/${unused:?}"
done
timeout 30 virsh -q -c qemu:///system uri >/dev/null 2>&1 ||
    say "libvirt does not answer on qemu:///system: enable libvirtd.service, or virtqemud.socket and its kin"
say "$(/usr/local/bin/sri-libvirt --version) serves on /run/sri-libvirt/sri-virtd.sock for group $group"
