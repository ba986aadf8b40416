#!/usr/bin/env bash
# Tries the units of deploy/systemd in a Debian guest with systemd, under QEMU's emulation: sandboxes
# outlive the daemon, limits hold, and nothing is left. The VMM in there is the test double, so that no
# virtual machine runs in another.
#
#   cargo build -p emberd -p emberctl -p emberd-init -p fake-firecracker --bins
#   scripts/try-systemd.sh [DIR]
#
# DIR keeps the guest's root image for the next time. Needs root, mmdebstrap, mke2fs and QEMU. Takes ten
# minutes and more.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
bin=${CARGO_TARGET_DIR:-target}/debug
dir=$(realpath -m "${1:-/tmp/emberd-try-systemd}")
mkdir -p "$dir"

if [[ ! -e $dir/root.img ]]; then
  root=$(mktemp -d)
  packages=systemd-sysv,dbus,linux-image-cloud-amd64,initramfs-tools,curl,jq,procps
  mmdebstrap --variant=minbase --include="$packages" trixie "$root"
  cat >"$root/etc/systemd/system/trial.service" <<'END'
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'mkdir /trial; tar xf /dev/vdb -C /trial; bash /trial/inside.sh; systemctl poweroff'
END
  ln -s ../trial.service "$root/etc/systemd/system/multi-user.target.wants/"
  touch "$root/etc/.updated" "$root/var/.updated"
  cp "$root"/boot/vmlinuz-* "$dir/vmlinuz"
  cp "$root"/boot/initrd.img-* "$dir/initrd"
  truncate -s 4G "$dir/root.img.new"
  mke2fs -q -t ext4 -d "$root" "$dir/root.img.new"
  mv "$dir/root.img.new" "$dir/root.img"
  rm -rf "$root"
fi

# What the guest gets: programs, units, and images that only the double understands.
trial=$(mktemp -d)
trap 'rm -rf "$trial" "$dir/once.img"' EXIT
cp "$bin"/{emberd,emberctl,emberd-init,fake-firecracker} deploy/systemd/* "$trial"
strip "$trial"/{emberd,emberctl,emberd-init,fake-firecracker}
cp scripts/try-systemd-inside.sh "$trial/inside.sh"
python3 - "$trial" <<'END'
import hashlib, json, pathlib, sys
trial = pathlib.Path(sys.argv[1])
data = trial / "data"
(data / "packs").mkdir(parents=True)
(data / "blobs").mkdir()
elf = b"\x7fELF\x02\x01".ljust(18, b"\0") + b"\x3e".ljust(46, b"\0")
(trial / "program").write_bytes(elf + b"Linux version 6.1.0-none (tests)")
spec = {"name": "shell", "run": ["/bin/sh", "{file}"], "file_name": "main"}
rootfs = json.dumps(spec).encode()
sha256 = hashlib.sha256(rootfs).hexdigest()
(data / f"blobs/sha256-{sha256}.squashfs").write_bytes(rootfs)
manifest = {
    "key": sha256,
    "name": "shell",
    "description": "the host's shell",
    "source": "tests",
    "compression": "none",
    "spec": spec,
    "rootfs": {"kind": "squashfs", "sha256": sha256, "size_bytes": len(rootfs)},
}
(data / "packs/shell.json").write_text(json.dumps(manifest))
END
EMBERD_DATA_DIR=$trial/data "$bin/emberctl" image build kernel --kernel "$trial/program" >/dev/null
EMBERD_DATA_DIR=$trial/data "$bin/emberctl" image build initramfs --agent "$trial/program" >/dev/null
tar cf "$dir/trial.tar" -C "$trial" .
truncate -s +1M "$dir/trial.tar"
cp --sparse=always "$dir/root.img" "$dir/once.img"

masked="systemd.mask=serial-getty@ttyS0.service systemd.mask=getty@tty1.service"
# Time in there goes by instructions, so that a busy host breaks no time limit.
qemu-system-x86_64 -machine q35 -accel tcg -icount shift=3 -cpu max -smp 2 -m 3072 -nographic -no-reboot -nic none \
  -kernel "$dir/vmlinuz" -initrd "$dir/initrd" \
  -append "root=/dev/vda rw console=ttyS0 loglevel=4 systemd.show_status=0 $masked" \
  -drive "file=$dir/once.img,if=virtio,format=raw,cache=unsafe" \
  -drive "file=$dir/trial.tar,if=virtio,format=raw,readonly=on" </dev/null | tee "$dir/log"
grep -q 'everything as expected' "$dir/log"
