#!/usr/bin/env bash
# Builds the daemon and its guests' images, then runs the daemon in the foreground. The initramfs is
# rebuilt if the agent changed. Listens on ADDR; arguments are passed to the daemon.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

stage "host packages and Rust"
install_packages "${host_packages[@]}"
install_rust
stage "emberd and emberctl"
cargo build --release --locked -p emberd -p emberctl
stage "kernel, initramfs, language packs"
build_images "$target_dir/release/emberctl" python shell node
end_stage

export EMBERD_ADDR=${ADDR:-${EMBERD_ADDR:-127.0.0.1:7777}}
exec "$target_dir/release/emberd" "$@"
