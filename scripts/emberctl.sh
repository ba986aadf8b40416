#!/usr/bin/env bash
# Runs emberctl from this work tree, building it first if it is not up to date:
#   scripts/emberctl.sh create|exec|inspect|rm|ls|ping|test|... [ARGUMENT...]
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
cargo build --quiet --release --locked --manifest-path "$repo/Cargo.toml" -p emberctl
exec "${CARGO_TARGET_DIR:-$repo/target}/release/emberctl" "$@"
