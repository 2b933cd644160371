#!/bin/sh
# Builds the Vagrant box of a Debian release from Debian packages alone, offline-capable: whatever the tests need is in it.
#
#   box.sh bookworm|trixie
#
# In build/box/RELEASE (SRI_BOX_DIR/RELEASE) afterwards: sri-libvirt.box, and for the direct boot vmlinuz, initrd.img and
# the key for ssh; `name` is the box's name, which changes with its contents. Nothing is done when nothing has changed.
# Packages come from where this host's own apt gets them (or DEBIAN_MIRROR and DEBIAN_SECURITY_MIRROR), Python packages
# from where its pip does; neither is remembered in the box. Root; no loop mount. `rm -r build/box` forgets all.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
project=${here%/*}

speaker=box
. "$here/steps.sh"

case ${1:-} in
bookworm) release=$1 libvirt=monolithic ;;
trixie) release=$1 libvirt=modular ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
[ "$(id -u)" = 0 ] || die "needs root: sudo $0 $release"

boxes=${SRI_BOX_DIR:-$project/build/box}
box=$boxes/$release
log=$box/build.log
size=12G # of the file system; sparse everywhere

# What a machine needs to be one, and what is good to have at hand in it.
machine="systemd-sysv libpam-systemd dbus udev linux-image-amd64 initramfs-tools zstd ca-certificates
    openssh-server sudo rsync iproute2 iputils-ping netcat-openbsd
    apparmor apparmor-utils polkitd lvm2 nfs-kernel-server git make less strace jq"

checkout=/home/vagrant/sri-libvirt # where the Vagrantfile copies this checkout

# source_of LABEL: the address from which this host's apt has the packages of Debian or Debian-Security.
source_of() {
    apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' |
        sed -n "s/^Debian $1 //p" | head -n 1
}

find_sources() {
    mirror=${DEBIAN_MIRROR:-$(source_of Debian)}
    security=${DEBIAN_SECURITY_MIRROR:-$(source_of Debian-Security)}
    [ -n "$mirror" ] ||
        die "this host's apt has no lists of a Debian mirror: run apt-get update, or name one in DEBIAN_MIRROR"
    [ -n "$security" ] || say "this host's apt has no security updates of Debian: the box will not have them either"
}

sources() { # of packages, as lines of a sources.list
    echo "deb $mirror $release main"
    echo "deb $mirror $release-updates main"
    [ -z "$security" ] || echo "deb $security $release-security main"
}

# The settings by which this host's apt reaches its sources, as options for another apt.
apt_options() {
    apt-config dump Acquire | sed -n -E \
        's/^(Acquire::(https?::|Check-Valid-Until|Check-Date|Retries|ForceIPv4)[^ ]*) "(.+)";$/--aptopt=\1 "\3"/p'
}

# system TREE: the release with all packages. The host's apt fills the tree; what it was told stays outside.
system() {
    tree=$1
    archives=$boxes/archives-$release
    mkdir -p "$archives"
    set --
    while read -r option; do
        [ -z "$option" ] || set -- "$@" "$option"
    done <<OPTIONS
$(apt_options)
OPTIONS
    # The archives are shared by builds: no deletion of what others still unpack.
    mmdebstrap --mode=root --format=directory --variant=minbase --include="$(echo $packages | tr ' ' ,)" \
        --aptopt='APT::Keep-Downloaded-Packages "true"' "$@" \
        --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --skip=download/empty --skip=essential/unlink --skip=cleanup/apt/cache \
        --setup-hook='mkdir -p "$1/var/cache/apt/archives/partial" "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"' \
        --setup-hook="cp -l '$archives'/*.deb \"\$1/var/cache/apt/archives/\" 2>/dev/null || true" \
        --setup-hook='printf "MODULES=list\nCOMPRESS=zstd\n" >"$1/etc/initramfs-tools/conf.d/box"' \
        --setup-hook='printf "virtio_pci\nvirtio_blk\nvirtio_net\next4\n" >"$1/usr/share/initramfs-tools/modules.d/box"' \
        --customize-hook="cp '$here/box-system.sh' '$box/key.pub' \"\$1/tmp/\"" \
        --customize-hook='chroot "$1" sh /tmp/box-system.sh && rm "$1/tmp/box-system.sh" "$1/tmp/key.pub"' \
        --customize-hook="cp -lu \"\$1\"/var/cache/apt/archives/*.deb '$archives/'" \
        --customize-hook='rm -f "$1"/var/cache/apt/archives/*.deb "$1"/var/cache/apt/*.bin' \
        --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/etc/apt/sources.list.d/*' \
        --customize-hook='echo "# This box is offline: what it needs is installed." >"$1/etc/apt/sources.list"' \
        --customize-hook='rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap' \
        "$release" "$tree" - <<SOURCES
$(sources)
SOURCES
}

# build_layer: mounts, at $root, a layer above the system that is thrown away: what this host's pip and apt are told
# (settings, certificates, the resolver) serves the build alone.
build_layer() {
    root=$box/scratch/root
    mkdir -p "$box/scratch/upper" "$box/scratch/work" "$root"
    mount -t overlay overlay -o "lowerdir=$box/system,upperdir=$box/scratch/upper,workdir=$box/scratch/work" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    cp --remove-destination -L /etc/resolv.conf "$root/etc/resolv.conf"
    for path in /etc/pip.conf /root/.pip/pip.conf /root/.config/pip/pip.conf \
        $(python3 -m pip config list | sed -n "s|^[^=]*='\(/[^']*\)'$|\1|p") \
        "${SSL_CERT_FILE:-}" "${REQUESTS_CA_BUNDLE:-}"; do
        [ ! -e "$path" ] || { mkdir -p "$root${path%/*}" && cp -aL --remove-destination "$path" "$root${path%/*}/"; }
    done
}

inside() { # COMMAND...: in the layer, as root at home
    env HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 chroot "$root" "$@"
}

throw_away() { # the layer
    umount -R "$root"
    rm -rf "$box/scratch"
}

# python_environment: /opt/sri-libvirt of the box.
python_environment() {
    build_layer
    mkdir -p "$box/python.new/opt/sri-libvirt" "$boxes/pip-$release"
    mkdir -p "$root/opt/sri-libvirt" "$root/root/.cache/pip" "$root$checkout"
    mount --bind "$box/python.new/opt/sri-libvirt" "$root/opt/sri-libvirt"
    mount --bind "$boxes/pip-$release" "$root/root/.cache/pip"
    (cd "$project" && cp -a pyproject.toml README.md LICENSE sri_libvirt templates vagrant "$root$checkout/")
    inside sh "$checkout/vagrant/refresh.sh"
    throw_away
}

# modular_daemons: virtqemud and its kin in the place of libvirtd, from the source of Debian's own packages, which do not
# have them. The box of bookworm keeps libvirtd: tests meet both.
modular_daemons() {
    build_layer
    sources | sed 'p; s/^deb /deb-src /' >"$root/etc/apt/sources.list"
    apt_options | sed 's/^--aptopt=//; s/$/;/' >"$root/etc/apt/apt.conf.d/99host"
    mkdir -p "$root/var/cache/apt/archives/partial" "$root/out" "$box/modular.new"
    mount --bind "$boxes/archives-$release" "$root/var/cache/apt/archives"
    mount --bind "$box/modular.new" "$root/out"
    cp "$here/modular.sh" "$root/tmp/"
    inside sh /tmp/modular.sh /out
    throw_away
}

# image: the file system of all layers, as a qcow2 disk without partitions.
image() {
    mkdir -p "$box/merged"
    layers=$box/python
    [ "$libvirt" != modular ] || layers=$layers:$box/modular
    mount -t overlay overlay -o "lowerdir=$layers:$box/system" "$box/merged"
    rm -f "$box/box.raw"
    mkfs.ext4 -q -F -L sri-libvirt -d "$box/merged" "$box/box.raw" "$size"
    umount "$box/merged"
    rmdir "$box/merged"
    # Compressed: it is unpacked, and copied into libvirt's pool, whenever a machine is made.
    qemu-img convert -c -O qcow2 -o compression_type=zstd "$box/box.raw" "$box/box.img"
    rm "$box/box.raw"
}

# pack: what Vagrant takes for a box.
pack() {
    printf '{"provider": "libvirt", "format": "qcow2", "virtual_size": %s}\n' "${size%G}" >"$box/metadata.json"
    tar -C "$box" -cf "$box/sri-libvirt.box.new" metadata.json box.img
    cp "$box"/system/boot/vmlinuz-* "$box/vmlinuz"
    cp "$box"/system/boot/initrd.img-* "$box/initrd.img"
    chmod 644 "$box/vmlinuz" "$box/initrd.img"
    mv "$box/sri-libvirt.box.new" "$box/sri-libvirt.box"
    rm "$box/box.img" "$box/metadata.json"
}

dependencies() { # of the project, its version and its code apart
    python3 - "$project/pyproject.toml" <<'PYTHON'
import json, sys, tomllib
with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
print(json.dumps([project["dependencies"], project["optional-dependencies"], project["scripts"]]))
PYTHON
}

body() { sed -n "/^${1}()/,/^}/p" "$0"; } # FUNCTION: its text, which decides whether what it made is stale

digest() { sha256sum | cut -c -12; }

# stale STAGE DIGEST: whether the stage has to be made (again).
stale() { [ "$(cat "$box/$1.made" 2>/dev/null)" != "$2" ]; }

if [ -z "${SRI_BOX_LOCKED:-}" ]; then
    for tool in mmdebstrap:mmdebstrap mkfs.ext4:e2fsprogs qemu-img:qemu-utils ssh-keygen:openssh-client; do
        command -v "${tool%:*}" >/dev/null || die "${tool%:*} is missing: run vagrant/provision.sh vm"
    done
    mkdir -p "$box"
    # In a mount namespace of its own: an interrupted build leaves no mounts. One build of a release at a time.
    SRI_BOX_LOCKED=1 exec flock "$box/lock" unshare --mount --propagation private -- "$0" "$release"
fi

packages="$machine $("$here/provision.sh" packages)"
shared=$(body build_layer; body inside; body throw_away)
system_digest=$({ body system; cat "$here/box-system.sh"; echo $packages; } | digest)
modular_digest=$({ echo "$system_digest" "$shared"; body modular_daemons; cat "$here/modular.sh"; } | digest)
python_digest=$({ echo "$system_digest" "$shared"; body python_environment; dependencies; } | digest)
[ "$libvirt" = modular ] || modular_digest=none
image_digest=$({ echo "$python_digest" "$modular_digest" "$size"; body image; body pack; } | digest)
name=sri-libvirt-$release-$image_digest

if stale system "$system_digest"; then
    : >"$log"
    find_sources
    rm -rf "$box/system"
    # Kept for all boxes that follow: a machine of an older one may run.
    [ -e "$box/key" ] || ssh-keygen -q -t ed25519 -N '' -C sri-libvirt -f "$box/key"
    step "packages of Debian $release (some minutes, 400 MB at the first time)" system "$box/system"
    echo "$system_digest" >"$box/system.made"
fi
if [ "$libvirt" = modular ] && stale modular "$modular_digest"; then
    find_sources
    rm -rf "$box/scratch" "$box/modular" "$box/modular.new" "$box/name"
    step "libvirt's modular daemons, from Debian's source (some minutes)" modular_daemons
    mv "$box/modular.new" "$box/modular"
    echo "$modular_digest" >"$box/modular.made"
fi
if stale python "$python_digest"; then
    rm -rf "$box/scratch" "$box/python" "$box/python.new" "$box/name"
    step "the project's Python environment" python_environment
    mv "$box/python.new" "$box/python"
    echo "$python_digest" >"$box/python.made"
fi
if [ "$(cat "$box/name" 2>/dev/null)" != "$name" ]; then
    step "the disk image" image
    step "the box" pack
    echo "$name" >"$box/name"
fi
[ -z "${SUDO_UID:-}" ] || chown "$SUDO_UID:$SUDO_GID" "$box" "$box"/*.* "$box/key" "$box/name"
say "$box/sri-libvirt.box is $name"
