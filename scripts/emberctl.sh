#!/usr/bin/env bash
# Builds emberctl from this work tree if necessary, and runs it:
#   scripts/emberctl.sh create|exec|inspect|rm|ls|ping|test|... [ARGUMENT...]
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
cargo build --quiet --release --locked --manifest-path "$repo/Cargo.toml" -p emberctl
exec "${CARGO_TARGET_DIR:-$repo/target}/release/emberctl" "$@"
