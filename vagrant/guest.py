# SPDX-License-Identifier: Apache-2.0
"""What the guest is: its packages and the set-up of its root file system, as data and one shell script."""

from __future__ import annotations

from pathlib import Path

# What boots, what logs in, and what a node of users has.
_SYSTEM = (
    "systemd systemd-sysv systemd-resolved libpam-systemd dbus udev kmod initramfs-tools zstd openssh-server sudo rsync"
    " ca-certificates curl less procps iproute2 iputils-ping ethtool socat strace psmisc"
)
# What building and testing Ketch needs, so that nothing is downloaded inside.
_TESTS = (
    "python3 python3-venv python3-dev build-essential libseccomp-dev pkg-config libcap2-bin uidmap"
    " apparmor apparmor-utils nftables iptables ipset ipvsadm conntrack wireguard-tools jq git make"
    " tcpdump iperf3 busybox-static runc crun containernetworking-plugins bzip2 openssl"
    # independent readers and writers of images; what serves volumes
    " umoci skopeo buildah podman docker-registry nfs-kernel-server nfs-common tgt open-iscsi"
)
# Packages that start by themselves what a test starts when it wants it, and what no node would have running.
_QUIET = (
    "systemd-timesyncd.service nfs-server.service nfs-blkmap.service rpcbind.service rpcbind.socket tgt.service"
    " iscsid.service iscsid.socket open-iscsi.service docker-registry.service podman.service podman.socket"
    " podman-auto-update.timer podman-auto-update.service podman-restart.service netavark-dhcp-proxy.socket"
)
KERNELS = {"bookworm": "linux-image-cloud-amd64", "trixie": "linux-image-cloud-amd64"}
SUITES = tuple(KERNELS)
PYTHON_OF_SUITE = {"bookworm": "3.11", "trixie": "3.13"}


def is_this_release(suite: str) -> bool:
    """Whether what is compiled on this host runs in such a guest: the same libc, the same Python."""
    described = Path("/etc/os-release").read_text().splitlines()
    return f"VERSION_CODENAME={suite}" in described


def packages(suite: str) -> list[str]:
    return [*_SYSTEM.split(), *_TESTS.split(), KERNELS[suite]]


# Where the guest has another Python than the host, its own pip makes the wheels, in there, with the host's settings and
# certificates. Runs before CUSTOMIZE, which finds them in $WHEELS.
MAKE_WHEELS = r"""set -e
work=$1/making-wheels
mkdir "$work"
cp -L "${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}" "$work/ca.crt"
cp "$WHEELS/requirements.txt" "$work/"
cp /etc/pip.conf "$work/" 2> /dev/null || : > "$work/pip.conf"
export PIP_CERT=/making-wheels/ca.crt PIP_CONFIG_FILE=/making-wheels/pip.conf PIP_FIND_LINKS=
env -u REQUESTS_CA_BUNDLE -u CURL_CA_BUNDLE -u SSL_CERT_FILE chroot "$1" sh -ec '
  cd /making-wheels
  python3 -m venv builder
  builder/bin/pip install -q wheel setuptools
  builder/bin/pip wheel -q -w . wheel pip -r requirements.txt'
mv "$work"/*.whl "$WHEELS/"
rm -rf "$work"
"""

# Runs on the host with the guest's root directory as $1; $KEYS are the public keys that may log in.
# An emulated CPU unpacks an initramfs slowly, so that holds only what finds the root disk; timers that wake a
# frozen guest are masked; an empty machine-id gives each first boot an identity of its own.
CUSTOMIZE = r"""set -e
root=$1
# tests that change the whole machine ask for this file: they run in no other place
echo "made by vagrant/image.py" > "$root/etc/ketch-guest"
chroot "$root" useradd -m -s /bin/bash -p '*' vagrant
echo 'vagrant ALL=(ALL) NOPASSWD:ALL' > "$root/etc/sudoers.d/vagrant"
chmod 0440 "$root/etc/sudoers.d/vagrant"
for home in root home/vagrant; do
  mkdir -p -m 700 "$root/$home/.ssh"
  printf '%s\n' "$KEYS" > "$root/$home/.ssh/authorized_keys"
  chmod 600 "$root/$home/.ssh/authorized_keys"
done
chroot "$root" chown -R vagrant:vagrant /home/vagrant
echo ketch-vm > "$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 ketch-vm\n::1 localhost ip6-localhost\n' > "$root/etc/hosts"
printf 'LABEL=ketchroot / ext4 noatime,errors=remount-ro 0 1\n' > "$root/etc/fstab"
cat > "$root/etc/ssh/sshd_config.d/10-ketch.conf" <<'SSHD'
UseDNS no
PermitRootLogin prohibit-password
GSSAPIAuthentication no
SSHD
cat > "$root/etc/systemd/network/80-dhcp.network" <<'NETWORK'
[Match]
Name=eth0
[Network]
DHCP=ipv4
LinkLocalAddressing=ipv6
IPv6AcceptRA=no
[DHCPv4]
ClientIdentifier=mac
NETWORK
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=volatile\nRuntimeMaxUse=32M\n' > "$root/etc/systemd/journald.conf.d/10-ketch.conf"
ln -sf /run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
chroot "$root" systemctl -q enable systemd-networkd systemd-resolved ssh
for unit in QUIET; do chroot "$root" systemctl -q disable "$unit" 2> /dev/null || true; done
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer man-db.timer \
    logrotate.timer motd-news.timer getty@tty1.service systemd-networkd-wait-online.service ipvsadm.service \
    nftables.service e2scrub_reap.service; do
  chroot "$root" systemctl -q mask "$unit"
done
printf 'MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=3\nBUSYBOX=auto\n' > "$root/etc/initramfs-tools/conf.d/ketch.conf"
printf '%s\n' virtio_pci virtio_blk virtio_scsi sd_mod ata_piix ahci ext4 > "$root/etc/initramfs-tools/modules"
chroot "$root" update-initramfs -u -k all > /dev/null
mkdir -p "$root/boot/grub" "$root/srv/ketch"
cat > "$root/boot/grub/grub.cfg" <<'GRUB'
set timeout=0
serial --unit=0 --speed=115200
terminal_output serial console
search --no-floppy --label ketchroot --set=root
linux /vmlinuz root=LABEL=ketchroot ro console=tty0 console=ttyS0 quiet net.ifnames=0 apparmor=1 security=apparmor
initrd /initrd.img
boot
GRUB
if [ -n "$(ls -A "$WHEELS" 2>/dev/null)" ]; then
  mkdir -p "$root/opt/ketch/wheels"
  cp "$WHEELS"/* "$root/opt/ketch/wheels/"
  chroot "$root" python3 -m venv /opt/ketch/venv
  chroot "$root" sh -c '/opt/ketch/venv/bin/pip install -q --no-index --no-warn-script-location \
    --find-links /opt/ketch/wheels $(cat /opt/ketch/wheels/requirements.txt)'
  # pip in the guest knows no other place, so building and installing work there without a network
  printf '[global]\nno-index = true\nfind-links = /opt/ketch/wheels\n' > "$root/etc/pip.conf"
fi
: > "$root/etc/machine-id"
rm -f "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/*
rm -rf "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/* "$root"/var/lib/apt/lists/*
""".replace("QUIET", _QUIET)
