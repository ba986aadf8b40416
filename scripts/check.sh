#!/usr/bin/env bash
# What a commit should pass, in under a minute where everything is built: format, lints, the house's
# rules and the unit tests. scripts/test.sh runs the rest. CONTRIBUTING.md makes it a git hook.
set -euo pipefail
# A hook's variables would lead git in other directories to this repository.
unset "${!GIT_@}"
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

failed=()
run() { # NAME COMMAND...
  local name=$1 started=$SECONDS verdict=ok
  shift
  "$@" || verdict=FAILED
  [[ $verdict == ok ]] || failed+=("$name")
  printf '%-6s %3d s  %s\n' "$verdict" "$((SECONDS - started))" "$name"
}

quietly() { # COMMAND...: shows what it printed only when it failed
  local printed
  printed=$("$@" 2>&1) || { echo "$printed" && return 1; }
}

run "format (cargo fmt --all)" quietly cargo fmt --all --check
run "lints" cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
run "house rules" quietly cargo test --quiet --locked -p emberd --test it -- tidy::
run "unit tests" quietly cargo test --quiet --locked --workspace --lib --bins
run "scripts and packs" quietly scripts/lint.sh
((${#failed[@]} == 0))
