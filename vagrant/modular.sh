#!/bin/sh
# libvirt's modular daemons (virtqemud, virtnetworkd and their kin), which Debian builds but does not ship: from
# Debian's own source package, to run with the packaged library and drivers of the same version.
#
#   modular.sh DESTDIR
#
# Inside a throw-away layer above a tree of Debian 13 with libvirt and systemd; root, a network, apt with sources
# (where no deb-src is told, from where the `deb` lines point). What is then below DESTDIR, copied over the tree, makes
# it a host of modular daemons: programs, units (enabled; libvirtd's masked), settings, AppArmor profile. A daemon
# whose driver the tree lacks is left out.
set -eu
umask 022

install -d "${1:?usage: modular.sh DESTDIR}"
destination=$(cd "$1" && pwd)
drivers="qemu network storage secret nodedev interface nwfilter"

# The libraries are those that the daemons see, and those without which meson leaves out a daemon or the profile.
build="gcc libc6-dev meson ninja-build pkgconf gettext patch xz-utils libxml2-utils xsltproc
    libglib2.0-dev libgnutls28-dev libxml2-dev libtirpc-dev libsasl2-dev libnl-3-dev libnl-route-3-dev
    libjson-c-dev libudev-dev libpciaccess-dev libapparmor-dev"

say() { echo "modular: $*" >&2; }

die() {
    say "$*"
    exit 1
}

version=$(dpkg-query -W -f '${source:Version}' libvirt0) || die "this tree has no libvirt"

apt="apt-get -q -y -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

if [ -z "$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Sources')" ]; then
    sed -n 's/^deb /deb-src /p' /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null \
        >/etc/apt/sources.list.d/modular-src.list || true
fi
$apt update
$apt install --no-install-recommends $build
triplet=$(gcc -print-multiarch)

# Exactly the tree's version: daemon, library and drivers share private symbols.
work=/var/tmp/modular
rm -rf "$work"
mkdir -p "$work/source"
cd "$work"
# Not the whole source package: some mirrors lack the .dsc. The archives are verified by the index.
for part in --tar-only --diff-only; do
    $apt source --download-only $part "libvirt=$version" ||
        die "no source of libvirt $version: is the tree up to date?"
done
tar -xf libvirt_*.orig.tar.xz -C source --strip-components=1
tar -xf libvirt_*.debian.tar.xz -C source
cd source
sed -n '/^[^#]/p' debian/patches/series | while read -r change; do
    patch -sp1 <"debian/patches/$change"
done

# Linked with the library of the package: none has to be built, and nothing can differ.
cat >../packaged-library.sed <<'SED'
/^foreach daemon : virt_daemons/,/^endforeach/ {
    /^ *libvirt\(_lxc\|_qemu\)\?_lib,$/d
    s/^\( *\)libvirt_no_undefined,$/&\n\1'-l:libvirt.so.0', '-l:libvirt-lxc.so.0', '-l:libvirt-qemu.so.0',/
}
SED
sed -i -f ../packaged-library.sed src/meson.build
grep -q -- '-l:libvirt.so.0' src/meson.build || die "libvirt $version describes its daemons in another way"

# Debian's settings (debian/rules) as far as they reach the daemons and their files.
meson setup ../build \
    --prefix=/usr --sysconfdir=/etc --localstatedir=/var --libdir="lib/$triplet" --libexecdir=/usr/lib/libvirt \
    --auto-features=disabled --wrap-mode=nodownload -Ddebug=false -Doptimization=2 \
    -Drunstatedir=/run -Dinitconfdir=/etc/default -Dunitdir=/usr/lib/systemd/system -Dsysusersdir=/usr/lib/sysusers.d \
    -Dno_git=true -Dpackager=sri-libvirt -Dpackager_version="$version" -Drpath=disabled -Dinit_script=systemd \
    -Dremote_default_mode=legacy -Ddriver_remote=enabled -Ddriver_libvirtd=enabled \
    -Ddriver_qemu=enabled -Djson_c=enabled -Dqemu_user=libvirt-qemu -Dqemu_group=libvirt-qemu \
    -Ddriver_network=enabled -Ddriver_secrets=enabled -Dstorage_dir=enabled \
    -Ddriver_interface=enabled -Dudev=enabled -Dpciaccess=enabled \
    -Dlibnl=enabled -Dpolkit=enabled -Dsasl=enabled \
    -Dapparmor=enabled -Dsecdriver_apparmor=enabled -Dapparmor_profiles=enabled
cd ../build

daemons=
for driver in $drivers; do
    if [ -e "/usr/lib/$triplet/libvirt/connection-driver/libvirt_driver_$driver.so" ]; then
        daemons="$daemons virt${driver}d"
    else
        say "libvirt-daemon-driver-$driver is not in this tree: no virt${driver}d"
    fi
done
ninja -j "$(nproc)" $(for daemon in $daemons; do echo "src/$daemon"; done)

units=$destination/usr/lib/systemd/system
settings=$destination/etc
install -d "$destination/usr/sbin" "$units" "$settings/libvirt" "$settings/apparmor.d" "$settings/default"
for daemon in $daemons; do
    install -s "src/$daemon" "$destination/usr/sbin/"
    install -m 644 "src/$daemon.conf" "$settings/libvirt/"
    for unit in "$daemon.service" "$daemon.socket" "$daemon-ro.socket" "$daemon-admin.socket"; do
        install -m 644 "src/$unit" "$units/"
    done
done
# libvirt confines guests by AppArmor only where the daemon itself has a profile.
install -m 644 src/security/apparmor/usr.sbin.virtqemud "$settings/apparmor.d/"

# Enabled as upstream advises: the services, to start guests at boot, and by them their sockets.
systemctl -q --root="$destination" enable $(for daemon in $daemons; do echo "$daemon.service"; done)
# Whoever started one of these would end its modular counterparts.
systemctl -q --root="$destination" mask libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket \
    libvirtd-tcp.socket libvirtd-tls.socket
# Without a URI Debian's library asks libvirtd: libvirt-guests would find no guests to shut down.
{
    cat /etc/default/libvirt-guests
    echo 'URIS=qemu:///system'
} >"$settings/default/libvirt-guests"
say "libvirt $version:$daemons"
