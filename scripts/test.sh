#!/usr/bin/env bash
# Runs all checks: scripts, format, lints, every test, real microVMs, the examples. Installs missing
# packages first, and ends with one line: N passed, N failed, N skipped.
#
# EMBERD_E2E=require   a test that cannot run on a real microVM fails
#            auto      such a test is skipped with a reason (default)
#            off       no microVM is booted
# EMBERD_DATA_DIR      directory of the guests' images; target/e2e-data by default
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
# shellcheck source=daemon.sh
. "$repo/scripts/daemon.sh"

export EMBERD_E2E=${EMBERD_E2E:-auto}
case $EMBERD_E2E in
  require | auto | off) ;;
  *) echo "error: EMBERD_E2E is $EMBERD_E2E, not require, auto or off" >&2 && exit 2 ;;
esac
export EMBERD_DATA_DIR=${EMBERD_DATA_DIR:-$target_dir/e2e-data}
emberctl=$target_dir/debug/emberctl
logs=$(mktemp -d)
trap 'stop_daemon || true; rm -rf "$logs"' EXIT
passed=0 failed=0 skipped=0

# Runs a command as one check: it passes or fails as a whole.
check() { # NAME COMMAND...
  local name=$1
  shift
  stage "$name"
  if "$@"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED: $name"
    return 1
  fi
}

# Runs a command that prints verdicts of its own, of which a sed program makes words
# `passed=N`, `failed=N`, `skipped=N`. A command that fails without having said so counts too.
tally() { # NAME SED-PROGRAM COMMAND...
  local name=$1 program=$2 log=$logs/tally ok=yes failed_before=$failed word words
  shift 2
  stage "$name"
  "$@" 2>&1 | tee "$log" || ok=
  read -r -d '' -a words < <(sed -nE "$program" "$log") || true
  for word in "${words[@]}"; do
    case $word in
      passed=*) passed=$((passed + ${word#*=})) ;;
      failed=*) failed=$((failed + ${word#*=})) ;;
      skipped=*) skipped=$((skipped + ${word#*=})) ;;
    esac
  done
  if [[ -z $ok ]]; then
    echo "FAILED: $name"
    ((failed > failed_before)) || failed=$((failed + 1))
  fi
}

# A test that could not run here printed one line `SKIPPED: why`; cargo counts it as passed.
cargo_verdicts='
  s/^test result: .* ([0-9]+) passed; ([0-9]+) failed; ([0-9]+) ignored;.*/passed=\1 failed=\2 skipped=\3/p
  s/^(test .* \.\.\. )?SKIPPED: .*/skipped=1 passed=-1/p'
example_verdicts='s/^example .* ok$/passed=1/p; s/^example .* FAILED$/failed=1/p'
emberctl_verdicts='s/^([0-9]+) ok, ([0-9]+) FAIL, ([0-9]+) SKIP$/passed=\1 failed=\2 skipped=\3/p'

live() { # the examples and emberctl's own test against a daemon with real microVMs
  local run_dir=$logs/run
  check "daemon starts" \
    start_daemon "$logs/emberd.log" "$target_dir/debug/emberd" --addr 127.0.0.1:0 \
    --run-dir "$run_dir" --pool-size 1 || return 0
  export EMBERD_ADDR=$daemon_addr
  check "templates" "$emberctl" template build python shell || true
  tally "emberctl test" "$emberctl_verdicts" "$emberctl" test
  tally "emberctl test --pack shell" "$emberctl_verdicts" "$emberctl" test --pack shell
  tally "examples" "$example_verdicts" examples/run_all.sh
  check "daemon stops" stop_daemon || cat "$logs/emberd.log"
  check "nothing is left behind" no_sandbox_left "$run_dir" || true
}

no_sandbox_left() { # RUN-DIR
  local left
  left=$(find "$1" -mindepth 1 -name 'sb_*' -prune -print)
  [[ -z $left ]] || { echo "$left" && return 1; }
}

stage "host packages and Rust"
install_packages "${host_packages[@]}" shellcheck:shellcheck unsquashfs:squashfs-tools
install_rust
cargo fmt --version >/dev/null 2>&1 || rustup --quiet component add rustfmt
cargo clippy --version >/dev/null 2>&1 || rustup --quiet component add clippy

mapfile -t shell_scripts < <(git ls-files '*.sh' .ci/run)
check "shellcheck" shellcheck "${shell_scripts[@]}" || true
check "rustfmt" cargo fmt --all --check || true
check "clippy" cargo clippy --quiet --locked --workspace --all-targets -- -D warnings || true
# Builds the binaries too: the same ones serve the images, the tests and the live daemon.
check "build" cargo test --quiet --locked --workspace --no-run || true
if [[ $EMBERD_E2E != off ]]; then
  if ! check "kernel, initramfs, language packs" build_images "$emberctl" python shell node code; then
    [[ $EMBERD_E2E == require ]] || { failed=$((failed - 1)) skipped=$((skipped + 1)); }
  fi
fi
tally "cargo test" "$cargo_verdicts" \
  cargo test --locked --workspace --no-fail-fast -- --show-output
[[ $EMBERD_E2E == off ]] || live
end_stage

echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0))
