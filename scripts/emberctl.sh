#!/usr/bin/env bash
# Builds emberctl from this work tree if necessary, and runs it:
#   scripts/emberctl.sh create|exec|inspect|rm|ls|ping|test|... [ARGUMENT...]
set -euo pipefail
here=$PWD
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
CARGO_TERM_QUIET=true build_binaries emberctl
# Files that the arguments name are where the caller is.
cd "$here"
exec "$bin_dir/emberctl" "$@"
