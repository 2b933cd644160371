#!/bin/sh
# Installs what sri-libvirt needs from the distribution and starts libvirt. Debian 12 and 13, Ubuntu 24.04.
#
#   provision.sh runtime      packages to serve machines and to build the tiny guest of the demo
#   provision.sh test         these and what the test suite needs
#   provision.sh vm           what `make box` and `make vm` need on the host
#   provision.sh packages     prints the names of the packages that `test` installs wherever the release has them
#   provision.sh start        starts libvirt unless it answers; prints a word for each daemon that it started
#   provision.sh stop WORD... stops the daemons that `start` named
#
# Root, or sudo. Does nothing, and quickly, when there is nothing to do. What belongs to the checkout (the Python
# environment) is the Makefile's.
set -eu

runtime="libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils qemu-block-extra ceph-common ovmf dnsmasq-base
    iproute2 procps python3 python3-venv python3-dev libvirt-dev gcc pkg-config
    mtools syslinux cpio kmod zstd"
tests="tini util-linux hwloc-nox umockdev
    ceph-mon ceph-osd tgt cryptsetup-bin openssl docker-registry skopeo binutils openvswitch-switch"
optional_tests="vagrant vagrant-libvirt" # not in every release; what needs them is skipped without
machines="libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils dnsmasq-base iproute2 util-linux tini
    vagrant vagrant-libvirt mmdebstrap e2fsprogs openssh-client rsync python3"

uri=qemu:///system
pids=/run/sri-libvirt-provision # pid files of daemons that were started without an init system
modular="virtqemud virtnetworkd virtstoraged virtsecretd virtnodedevd virtinterfaced virtnwfilterd"

say() { echo "provision: $*" >&2; }

die() {
    say "$*"
    exit 1
}

has_systemd() { [ -d /run/systemd/system ]; }

quietly() { # COMMAND...: its output is shown only when it fails
    log=$(mktemp)
    if "$@" >"$log" 2>&1 </dev/null; then
        rm -f "$log"
    else
        cat "$log" >&2
        rm -f "$log"
        die "failed: $*"
    fi
}

missing() { # PACKAGE...: those that are not installed
    for package in "$@"; do
        case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) in
        installed) ;;
        *) echo "$package" ;;
        esac
    done
}

# Without an init system package scripts must not start services: nobody would reap, stop or see them.
forbid_service_starts() {
    if [ -e /usr/sbin/policy-rc.d ]; then return; fi
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
}

install_packages() { # PACKAGE...
    wanted=$(missing "$@")
    [ -n "$wanted" ] || return 0
    say "installing" $wanted
    has_systemd || forbid_service_starts
    quietly apt-get -q -o DPkg::Lock::Timeout=600 update
    quietly env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 \
        install --no-install-recommends $wanted
}

install_optional() { # PACKAGE...
    available=
    for package in $(missing "$@"); do
        if apt-cache show "$package" >/dev/null 2>&1; then
            available="$available $package"
        else
            say "$package is not in this release: left out"
        fi
    done
    install_packages $available
}

# Servers that tests start themselves serve nothing on the host, neither now nor after its next start.
install_idle() { # PACKAGE...
    new=$(missing "$@")
    [ -n "$new" ] || return 0
    forbid_service_starts
    install_packages $new
    for package in $new; do
        case $package in
        tgt) quietly systemctl --no-reload disable tgt.service ;;
        ceph-mon) quietly systemctl --no-reload disable ceph-crash.service ;;
        docker-registry) quietly systemctl --no-reload disable docker-registry.service ;;
        openvswitch-switch) quietly systemctl --no-reload disable openvswitch-switch.service ;;
        esac
    done
}

# QEMU's user must be able to open /dev/kvm. udev's rule does this; where no udev runs (containers) nobody does, and
# libvirt then probes QEMU again for every single lookup of capabilities: a define takes a minute.
open_kvm() {
    if [ ! -c /dev/kvm ] || [ -e /run/udev/control ] || ! getent group kvm >/dev/null; then return; fi
    [ "$(stat -c '%G %a' /dev/kvm)" = "kvm 660" ] && return
    chgrp kvm /dev/kvm && chmod 660 /dev/kvm || say "/dev/kvm cannot be given to group kvm; guests may start slowly"
}

answers() { timeout 20 virsh -q -c $uri uri >/dev/null 2>&1; }

wait_for_answer() {
    for _ in $(seq 60); do
        if answers; then return; fi
        sleep 0.5
    done
    die "libvirt does not answer on $uri: see the journal, or /var/log/libvirt"
}

start_with_systemd() {
    # Where both are installed: what is enabled. Whoever starts the one kind ends the other.
    if systemctl cat libvirtd.service >/dev/null 2>&1 && ! systemctl -q is-enabled virtqemud.socket 2>/dev/null; then
        units="libvirtd.service"
    else
        units=$(for daemon in $modular; do echo "$daemon.socket"; done)
    fi
    for unit in virtlogd.socket $units; do
        if systemctl cat "$unit" >/dev/null 2>&1 && ! systemctl -q is-active "$unit"; then
            systemctl start "$unit"
            echo "$unit"
        fi
    done
}

runs() { # NAME: in our mount namespace; one in a container or a test's namespaces is not this host's
    for pid in $(pgrep -x "$1"); do
        if [ "$(readlink "/proc/$pid/ns/mnt")" = "$(readlink /proc/self/ns/mnt)" ]; then return 0; fi
    done
    return 1
}

start_daemon() { # NAME: as a daemon with a pid file of ours
    if runs "$1"; then return; fi
    command -v "$1" >/dev/null || die "$1 is not installed: run '$0 runtime' first"
    mkdir -p "$pids"
    "$1" --daemon --pid-file "$pids/$1.pid" >&2
    echo "$1"
}

start() {
    open_kvm
    if answers; then return; fi
    if has_systemd; then
        start_with_systemd
    else
        start_daemon virtlogd
        start_daemon libvirtd
    fi
    wait_for_answer
}

stop_daemon() { # NAME: ends the process of our pid file, if it is still that program
    pid=$(cat "$pids/$1.pid" 2>/dev/null) || return 0
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ]; then
        kill "$pid"
        wait_for_end "$pid" || die "$1 (process $pid) does not end"
    fi
    rm -f "$pids/$1.pid"
    rmdir "$pids" 2>/dev/null || true
}

wait_for_end() { # PID
    for _ in $(seq 100); do
        case $(cat "/proc/$1/stat" 2>/dev/null) in
        '' | *') Z '*) return 0 ;; # a container without an init reaps nobody: a zombie has ended
        esac
        sleep 0.1
    done
    return 1
}

stop() { # WORD...: as `start` printed them
    for word in "$@"; do
        case $word in
        *.*) systemctl stop "$word" ;;
        libvirtd | virtlogd) stop_daemon "$word" ;;
        *) die "no daemon of ours: $word" ;;
        esac
    done
}

command=${1:-}
case $command in
runtime | test | vm | start | stop) shift ;;
packages)
    echo $runtime $tests
    exit 0
    ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "needs root, and there is no sudo"
    exec sudo "$0" "$command" "$@"
fi
command -v apt-get >/dev/null || die "knows Debian and Ubuntu only; install what is listed at the top of this script by other means"
case $command in
runtime)
    install_packages $runtime
    open_kvm
    ;;
test)
    install_packages $runtime
    install_idle $tests
    # Not beside another vendor's kubectl: both packages hold the same file.
    command -v kubectl >/dev/null || optional_tests="$optional_tests kubernetes-client"
    install_optional $optional_tests
    open_kvm
    ;;
vm)
    install_packages $machines
    open_kvm
    ;;
start) start ;;
stop) stop "$@" ;;
esac
