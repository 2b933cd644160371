#!/bin/sh
# A Debian host in a virtual machine, with KVM for guests in it: for tests that only a real host can pass.
#
#   vm.sh up bookworm|trixie       makes and starts it, or brings this checkout into the one that runs
#   vm.sh ssh RELEASE [COMMAND]    a shell, or a command, in it
#   vm.sh test RELEASE [ARG...]    up, tests/vm against it (ARG: pytest's), results to build/vm/RELEASE/results, destroy
#   vm.sh virsh RELEASE WORD...    virsh where the machine is a domain
#   vm.sh destroy RELEASE          ends and forgets it, results apart
#
# Where libvirt answers on qemu:///system, the machine is a domain there. Where it does not, or with SRI_VM_PRIVATE=1, it
# gets a libvirtd of its own in mount, network and process namespaces of its own (root): nothing of the host's is
# touched, and all of it ends with `destroy`. The box is that of box.sh if there is one; otherwise libvirt's host uses a
# public one and the private libvirtd has one built. SRI_VM_DIR is where machines live (build/vm).
# KEEP=1 keeps the machine after `test`.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
project=${here%/*}

speaker=vm
. "$here/steps.sh"

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

command=${1:-}
release=${2:-}
case "$command $release" in
"up bookworm" | "up trixie" | "ssh bookworm" | "ssh trixie" | "test bookworm" | "test trixie" | \
    "virsh bookworm" | "virsh trixie" | "destroy bookworm" | "destroy trixie") shift 2 ;;
*) usage ;;
esac

vms=${SRI_VM_DIR:-$project/build/vm}
boxes=${SRI_BOX_DIR:-$project/build/box}
vm=$vms/$release
log=$vm/vm.log
domain=sri-libvirt-$release

# One at a time makes, or tests on, a machine. What it starts does not hold the lock.
if [ "$command" = up ] || [ "$command" = test ]; then
    if [ -z "${SRI_VM_LOCKED:-}" ]; then
        mkdir -p "$vm"
        status=0
        SRI_VM_LOCKED=1 flock --nonblock --close --conflict-exit-code 75 "$vm/lock" "$0" "$command" "$release" "$@" ||
            status=$?
        [ "$status" != 75 ] || die "somebody else makes or tests the machine of $release now"
        exit "$status"
    fi
fi

console() {
    if is_private; then echo "$vm/libvirt/log/qemu/$domain-console.log"; else echo "/var/log/libvirt/qemu/$domain-console.log"; fi
}

hint() { echo ", the machine's console in $(console)"; }

# Namespaces of its own.

is_private() { [ -e "$vm/anchor" ]; }

anchor_lives() {
    read -r pid network 2>/dev/null <"$vm/anchor" && [ "$(readlink "/proc/$pid/ns/net" 2>/dev/null)" = "$network" ]
}

within() { # COMMAND...: where the machine and its libvirtd are
    if is_private; then
        anchor_lives || die "the namespaces of the machine have ended: vm.sh destroy $release, then up"
        nsenter -t "$pid" -m -n -p -- "$@"
    else
        "$@"
    fi
}

beside() { # COMMAND...: in the machine's network only, with this host's files and processes
    if is_private; then
        anchor_lives || die "the namespaces of the machine have ended: vm.sh destroy $release, then up"
        nsenter -t "$pid" -n -- "$@"
    else
        "$@"
    fi
}

wants_private() {
    case ${SRI_VM_PRIVATE:-} in
    1) return 0 ;;
    0) return 1 ;;
    esac
    ! timeout 20 virsh -q -c qemu:///system uri >/dev/null 2>&1
}

# A libvirtd with the host's settings, and none of its domains, networks and pools.
start_private() { # kvm|qemu
    [ "$(id -u)" = 0 ] || die "libvirt does not answer on qemu:///system, and a libvirtd of its own needs root"
    for tool in tini:tini libvirtd:libvirt-daemon-system vagrant:vagrant rsync:rsync; do
        command -v "${tool%:*}" >/dev/null || die "${tool%:*} is missing: run vagrant/provision.sh vm"
    done
    base=$vm/libvirt
    rm -rf "$base"
    mkdir -p "$base/etc" "$base/lib/qemu" "$base/lib/images" "$base/lib/boot" "$base/cache" "$base/log" "$base/run"
    chmod 750 "$base/lib/qemu"
    ! id libvirt-qemu >/dev/null 2>&1 || chown libvirt-qemu:libvirt-qemu "$base/lib/qemu"
    cp -p /etc/libvirt/*.conf "$base/etc/"
    [ ! -d /etc/libvirt/nwfilter ] || cp -rp /etc/libvirt/nwfilter "$base/etc/"
    printf '\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n' >>"$base/etc/libvirtd.conf"
    # AppArmor's profiles know the real directories only.
    printf '\nsecurity_driver = "none"\n' >>"$base/etc/qemu.conf"
    # Copies: QEMU's user need not be able to enter this checkout.
    cp "$boxes/$release/vmlinuz" "$boxes/$release/initrd.img" "$base/lib/boot/"

    setsid unshare --mount --net --pid --fork --mount-proc --kill-child -- \
        tini -- "$here/private.sh" "$base" "$1" >"$vm/private.log" 2>&1 </dev/null &
    outer=$!
    for _ in $(seq 100); do
        pid=$(cat "/proc/$outer/task/$outer/children" 2>/dev/null || true)
        pid=${pid%% *}
        [ -z "$pid" ] || break
        sleep 0.1
    done
    [ -n "$pid" ] || die "no namespaces of its own: $(cat "$vm/private.log")"
    echo "$pid $(readlink "/proc/$pid/ns/net")" >"$vm/anchor"
    for _ in $(seq 120); do
        anchor_lives || break
        if within timeout 20 virsh -q -c qemu:///system uri >/dev/null 2>&1; then
            within virsh -q -c qemu:///system pool-create-as default dir --target /var/lib/libvirt/images
            return 0
        fi
        sleep 0.5
    done
    end_private
    die "its own libvirtd does not answer: $(tail -n 5 "$vm/private.log")"
}

end_private() {
    if anchor_lives; then
        kill -KILL "$pid" # the first process of its namespace takes all others with it
        for _ in $(seq 300); do
            anchor_lives || break
            sleep 0.1
        done
        ! anchor_lives || die "process $pid does not end"
    fi
    rm -f "$vm/anchor"
    # What libvirt made for the machine outside of the namespaces.
    for _ in 1 2 3 4 5; do
        find /sys/fs/cgroup -depth -type d -path "*/machine/qemu-*-$domain*" -exec rmdir {} + 2>/dev/null || true
        [ -n "$(find /sys/fs/cgroup -type d -path "*/machine/qemu-*-$domain*" 2>/dev/null)" ] || break
        sleep 0.2
    done
}

# Vagrant.

in_vagrant() { # WORD...
    set -- vagrant "$@"
    export VAGRANT_CWD="$here" VAGRANT_DEFAULT_PROVIDER=libvirt VAGRANT_CHECKPOINT_DISABLE=1
    export VAGRANT_DOTFILE_PATH="$vm/vagrant" SRI_BOX_DIR="$boxes"
    SRI_VAGRANT_DRIVER=$(cat "$vm/driver")
    export SRI_VAGRANT_DRIVER
    if is_private; then
        export VAGRANT_HOME="$vm/home" SRI_VAGRANT_KERNEL_DIR=/var/lib/libvirt/boot
        mkdir -p "$VAGRANT_HOME"
    fi
    within "$@"
}

write_ssh_config() {
    in_vagrant ssh-config --host vm "$release" >"$vm/ssh_config.new"
    # A unix socket's path is short, and ssh appends to it while it makes it.
    if [ "$(printf %s "$vm/ssh.socket" | wc -c)" -lt 85 ]; then
        printf '  ControlMaster auto\n  ControlPersist 600\n  ControlPath %s\n' "$vm/ssh.socket" >>"$vm/ssh_config.new"
    fi
    printf '  ConnectTimeout 30\n  ServerAliveInterval 15\n  ServerAliveCountMax 8\n' >>"$vm/ssh_config.new"
    mv "$vm/ssh_config.new" "$vm/ssh_config"
}

in_machine() { beside ssh -F "$vm/ssh_config" vm "$@"; }

hang_up() { # nothing to hang up, and no reason to die, where the namespaces have ended with the host
    [ ! -e "$vm/ssh_config" ] || (beside ssh -F "$vm/ssh_config" -O exit vm) >/dev/null 2>&1 || true
}

# What is done.

judge_kvm() {
    verdict=$(python3 "$here/kvm.py" 2>"$vm/kvm") || die "whether this host has KVM cannot be told: $(tail -n 1 "$vm/kvm")"
    if [ "$verdict" = qemu ] && [ "$(id -u)" != 0 ] && [ -e /dev/kvm ] && [ ! -w /dev/kvm ]; then
        verdict=kvm # this user may not ask; libvirt's QEMU may
    fi
    echo "${SRI_VAGRANT_DRIVER:-$verdict}" >"$vm/driver"
    case $(cat "$vm/driver") in
    kvm) say "this host's KVM works: the machine uses it" ;;
    *) say "the machine is emulated: $(cut -c -200 "$vm/kvm")" ;;
    esac
}

require_readable() { # FILE: by QEMU as libvirt runs it; only root can try
    if [ "$(id -u)" = 0 ] && id libvirt-qemu >/dev/null 2>&1; then
        setpriv --reuid libvirt-qemu --regid libvirt-qemu --clear-groups test -r "$1" ||
            die "QEMU's user cannot read $1: let others enter the directories above, or set SRI_BOX_DIR to another place"
    fi
}

up() {
    mkdir -p "$vm"
    # What an earlier one left that ended, or did not come to its end.
    if is_private && { ! anchor_lives || [ ! -e "$vm/ssh_config" ]; }; then destroy; fi
    if [ -e "$vm/ssh_config" ]; then
        if [ -e "$boxes/$release/name" ] && [ "$(cat "$vm/box")" != "$(cat "$boxes/$release/name")" ]; then
            say "the machine is of an older box: vm-destroy makes way for the new one"
        fi
        # It may have been powered off, or its QEMU may have crashed.
        if [ "$(within virsh -q -c qemu:///system domstate "$domain" 2>/dev/null)" != running ]; then
            hang_up
            step "vagrant up: it did not run" in_vagrant up --no-provision "$release"
            step "how it is reached" write_ssh_config
        fi
        bring
        return
    fi
    : >"$log"
    judge_kvm
    if wants_private; then
        "$here/box.sh" "$release"
        step "a libvirtd of its own" start_private "$(cat "$vm/driver")"
    elif [ -e "$boxes/$release/name" ]; then
        require_readable "$boxes/$release/vmlinuz"
    fi
    cat "$boxes/$release/name" >"$vm/box" 2>/dev/null || echo public >"$vm/box"
    echo "$domain" >"$vm/domain"
    step "vagrant up: a Debian host with libvirt (without KVM here, two or three minutes)" in_vagrant up "$release"
    step "how it is reached" write_ssh_config
    step "the tiny guest" bring_guest
    say "$release is up: make vm-ssh RELEASE=$release"
}

# The files as they are now, and the environment if pyproject.toml asks for it.
bring() {
    step "copy of this checkout" in_vagrant rsync "$release"
    step "the project's environment" in_machine sudo sh sri-libvirt/vagrant/refresh.sh
    step "the tiny guest" bring_guest
}

destroy() {
    hang_up
    if is_private; then
        end_private
    elif [ -e "$vm/driver" ]; then
        in_vagrant destroy -f "$release" >&2
    fi
    rm -rf "${vm:?}/libvirt" "$vm/vagrant" "${vm:?}/home"
    rm -f "$vm/ssh_config" "$vm/ssh.socket" "$vm/driver" "$vm/domain" "$vm/box" "$vm/kvm"
    say "$release is gone"
}

# The tiny guest is built on this host, where apt can download: the machine has none to ask.
bring_guest() {
    guest=$("$project/.venv/bin/python" -c 'from tests.guest import build; print(build.image())')
    in_machine sudo mkdir -p /root/.cache/sri-libvirt
    beside rsync -S --rsync-path "sudo rsync" -e "ssh -F $vm/ssh_config" "$guest" vm:/root/.cache/sri-libvirt/
}

run_tests() { # ARG...: pytest's
    all_started=$(date +%s)
    [ -x "$project/.venv/bin/python" ] || die "no .venv: make setup-test"
    up
    rm -rf "$vm/results"
    mkdir -p "$vm/results"
    status=0
    {
        cd "$project"
        .venv/bin/python -m pytest tests/vm --vm="$release" --junitxml="$vm/results/junit.xml" "$@" 2>&1 ||
            echo $? >"$vm/results/status"
    } | tee "$vm/results/pytest.log"
    [ ! -e "$vm/results/status" ] || status=$(cat "$vm/results/status")
    collect
    if [ "${KEEP:-}" = 1 ]; then
        say "$release is kept: make vm-ssh RELEASE=$release"
    else
        destroy
    fi
    verdict=passed
    [ "$status" = 0 ] || verdict="failed with status $status"
    say "tests on $release $verdict after $(($(date +%s) - all_started)) s; results, journal and logs are in $vm/results"
    return "$status"
}

# What one wants to read after a failure; a machine that is not reached any more has its console only.
collect() {
    say "logs"
    cp "$(console)" "$vm/results/console.log" || true
    ! grep -q "Kernel panic" "$vm/results/console.log" 2>/dev/null ||
        say "the machine's kernel has panicked: see $vm/results/console.log"
    for pair in "journal.log:journalctl --no-pager -o short-precise" "dmesg.log:dmesg" \
        "failed-units.log:systemctl --no-pager --failed" "packages.log:dpkg-query -W libvirt* qemu-system* linux-image*"; do
        in_machine "sudo ${pair#*:}" >"$vm/results/${pair%%:*}" 2>/dev/null || true
    done
    beside rsync -a --no-owner --no-group --rsync-path "sudo rsync" -e "ssh -F $vm/ssh_config" \
        vm:/var/log/libvirt "$vm/results/" >/dev/null 2>&1 || true
}

require_machine() { [ -e "$vm/ssh_config" ] || die "there is no machine: make vm RELEASE=$release"; }

case $command in
up) up ;;
ssh)
    require_machine
    in_machine "$@"
    ;;
virsh)
    require_machine
    within virsh -c qemu:///system "$@"
    ;;
destroy) destroy ;;
test) run_tests "$@" ;;
esac
