#!/bin/sh
# Builds the guest agent as one static binary and packs it as /init of an initramfs.
#
#   OUT=FILE          writes the initramfs to FILE instead of the data directory
#   EMBERCTL=FILE     uses this emberctl instead of building one
#   AGENT_PROFILE=P   builds the agent in this profile of Cargo.toml instead of `guest`
#   AGENT_ONLY=yes    builds the agent and no initramfs
#   EMBERD_DATA_DIR and CARGO_TARGET_DIR are used too.
set -eu

cd "$(dirname "$0")/.."
target=x86_64-unknown-linux-gnu
profile=${AGENT_PROFILE:-guest}
agent=${CARGO_TARGET_DIR:-target}/$target/$profile/emberd-init

# Static, so that the agent runs with any root image. The flags apply to the named target only,
# because build scripts and procedural macros cannot be linked statically.
flags="-C target-feature=+crt-static -C link-arg=-Wl,-T,rootfs/agent.ld"
# Relocations take a twentieth of their usual room where the C library applies such: from 2.36 on.
glibc=$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)
if [ "$(printf '2.36\n%s\n' "$glibc" | sort -V | head -n1)" = 2.36 ]; then
    flags="$flags -C link-arg=-Wl,-z,pack-relative-relocs"
fi
CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS=$flags \
    cargo build --locked --package emberd-init --profile "$profile" --target "$target"
echo "agent: $agent, $(stat --format=%s "$agent") bytes"
if [ -n "${AGENT_ONLY:-}" ]; then
    exit
fi

set -- image build initramfs --agent "$agent"
if [ -n "${OUT:-}" ]; then
    set -- "$@" --out "$OUT"
fi
if [ -n "${EMBERCTL:-}" ]; then
    exec "$EMBERCTL" "$@"
fi
exec cargo run --locked --release --quiet --package emberctl -- "$@"
