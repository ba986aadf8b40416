#!/usr/bin/env bash
# Builds the daemon and its guests' images, then runs the daemon in the foreground. The initramfs is
# rebuilt if the agent changed. Listens on ADDR; arguments are passed to the daemon.
# EMBERD_PROFILE=release builds as for an installation, which takes longer.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

stage "host packages and Rust"
install_packages "${host_packages[@]}"
install_rust
stage "emberd and emberctl"
build_binaries emberd emberctl
stage "kernel, initramfs, language packs"
build_images "$bin_dir/emberctl" python shell node
end_stage

export EMBERD_ADDR=${ADDR:-${EMBERD_ADDR:-127.0.0.1:7777}}
exec "$bin_dir/emberd" "$@"
