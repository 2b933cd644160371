#!/bin/sh
# Inside the tree of a new box: what makes it a machine that Vagrant can use. Called by box.sh; /tmp/key.pub is the
# public key of its user.
set -eu

echo sri-libvirt >/etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 sri-libvirt\n' >/etc/hosts
echo '/dev/vda / ext4 defaults,noatime,errors=remount-ro 0 1' >/etc/fstab
# Empty: each machine gets an id of its own at its first boot.
: >/etc/machine-id

useradd --create-home --shell /bin/bash --groups sudo vagrant
install -d -m 700 -o vagrant -g vagrant /home/vagrant/.ssh
install -m 600 -o vagrant -g vagrant /tmp/key.pub /home/vagrant/.ssh/authorized_keys
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/vagrant
chmod 440 /etc/sudoers.d/vagrant
# QEMU's user must pass on its way to a checkout's files.
chmod 711 /home/vagrant

cat >/etc/systemd/network/50-dhcp.network <<'NETWORK'
[Match]
Name=en* eth*

[Network]
DHCP=ipv4
# No IPv6 router will answer: do not wait for one.
IPv6AcceptRA=no

[DHCPv4]
ClientIdentifier=mac
NETWORK
systemctl enable systemd-networkd.service ssh.service
# Nobody waits for the network before it is there; sshd listens at once.
systemctl mask systemd-networkd-wait-online.service
# An offline machine fetches nothing.
systemctl mask apt-daily.timer apt-daily-upgrade.timer man-db.timer e2scrub_all.timer fstrim.timer

# Tests start what they need of these themselves.
systemctl mask tgt.service ceph-crash.service
systemctl disable nfs-server.service rpcbind.socket rpcbind.service

# The console is a file; nobody logs in there.
systemctl mask serial-getty@ttyS0.service

# Emulated and on a busy host, everything takes long, and nothing is the worse for that.
mkdir -p /etc/systemd/system.conf.d
printf '[Manager]\nDefaultTimeoutStartSec=15min\nDefaultDeviceTimeoutSec=15min\n' >/etc/systemd/system.conf.d/box.conf
cat >/etc/dbus-1/system-local.conf <<'DBUS'
<busconfig><limit name="service_start_timeout">600000</limit></busconfig>
DBUS

# Debian 13 has a hundred profiles of programs that are not here; an emulated CPU compiles them for minutes.
for profile in /etc/apparmor.d/*; do
    case ${profile##*/} in
    *libvirt* | *virt-aa-helper* | *dnsmasq* | tunables | abstractions | abi | local | disable | force-complain) ;;
    *) rm -rf "$profile" ;;
    esac
done

cat >/etc/ssh/sshd_config.d/box.conf <<'SSHD'
UseDNS no
GSSAPIAuthentication no
PasswordAuthentication no
SSHD
# Emulated CPUs are slow at large primes, so the machine does not make keys at its first boot. They are in no other box.
rm -f /etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key

mkdir -p /etc/systemd/journald.conf.d
printf '[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\n' >/etc/systemd/journald.conf.d/box.conf
mkdir -p /var/log/journal

# A user's shell finds the project's commands.
echo 'PATH=/opt/sri-libvirt/venv/bin:$PATH' >/etc/profile.d/sri-libvirt.sh
