#!/bin/sh
# Builds the guest agent as one static binary and packs it as /init of an initramfs.
#
#   OUT=FILE          writes the initramfs to FILE instead of the data directory
#   EMBERCTL=FILE     uses this emberctl instead of building one
#   EMBERD_DATA_DIR and CARGO_TARGET_DIR are used too.
set -eu

cd "$(dirname "$0")/.."
target=x86_64-unknown-linux-gnu
agent=${CARGO_TARGET_DIR:-target}/$target/guest/emberd-init

# Static, so that the agent runs with any root image. The flag applies to the named target only,
# because build scripts and procedural macros cannot be linked statically.
CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --locked --package emberd-init --profile guest --target "$target"
echo "agent: $agent, $(stat --format=%s "$agent") bytes"

set -- image build initramfs --agent "$agent"
if [ -n "${OUT:-}" ]; then
    set -- "$@" --out "$OUT"
fi
if [ -n "${EMBERCTL:-}" ]; then
    exec "$EMBERCTL" "$@"
fi
exec cargo run --locked --release --quiet --package emberctl -- "$@"
