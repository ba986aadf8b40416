#!/usr/bin/env bash
# Runs all checks: scripts, format, lints, every test, real microVMs, the examples. Installs missing
# packages first, and ends with one line: N passed, N failed, N skipped.
#
# EMBERD_E2E=require   everything that cannot run here fails, for want of microVMs or anything else
#            auto      it is skipped with a reason (default)
#            off       no microVM is booted
# EMBERD_DATA_DIR      directory of the guests' images; target/e2e-data by default
set -euo pipefail
# The images are those of an installation.
EMBERD_PROFILE=release
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
export EMBERD_SKIPS=$logs/skips EMBERD_KEPT=$logs/kept
mkdir "$EMBERD_KEPT"
: >"$EMBERD_SKIPS"
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
  local name=$1 program=$2 log=$logs/kept/$1.tally ok=yes failed_before=$failed word words
  shift 2
  stage "$name"
  "$@" 2>&1 | tee "${log// /-}" || ok=
  read -r -d '' -a words < <(sed -nE "$program" "${log// /-}") || true
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

# Runs the tests of all crates, by cargo-nextest where there is one: it ends a test that hangs and
# names it. `cargo test` only says which test runs for over a minute.
cargo_tests() {
  if cargo nextest --version >/dev/null 2>&1; then
    tally "cargo nextest" "$nextest_verdicts" \
      cargo nextest run --locked --workspace --no-fail-fast --show-progress none
    tally "cargo test --doc" "$cargo_verdicts" cargo test --locked --workspace --doc
  else
    tally "cargo test" "$cargo_verdicts" cargo test --locked --workspace --no-fail-fast
  fi
  # A test that could not run here left a line in this file, and counts as passed so far.
  local tests
  tests=$(sed -nE 's/^\{"test":"(([^"\\]|\\.)*)".*/\1/p' "$EMBERD_SKIPS" | sort -u | wc -l)
  skipped=$((skipped + tests)) passed=$((passed - tests))
}

cargo_verdicts='
  s/^test result: .* ([0-9]+) passed; ([0-9]+) failed; ([0-9]+) ignored;.*/passed=\1 failed=\2 skipped=\3/p'
# Of the line `Summary [ 9.9s] 9 tests run: 5 passed (1 slow), 1 failed, 1 timed out, 1 skipped`.
nextest_verdicts='
  /^ *Summary \[/{
    s/.* tests? run: //
    s/ \([^)]*\)//g
    s/([0-9]+) passed/passed=\1/
    s/([0-9]+) (failed|timed out|exec failed)/failed=\1/g
    s/([0-9]+) skipped/skipped=\1/
    s/, / /g
    p
  }'
example_verdicts='
  s/^example .* ok$/passed=1/p
  s/^example .* FAILED$/failed=1/p
  s/^example .* SKIPPED$/skipped=1/p'
lint_verdicts='s/^ok: .*/passed=1/p; s/^SKIPPED: .*/skipped=1/p'
emberctl_verdicts='s/^([0-9]+) ok, ([0-9]+) FAIL, ([0-9]+) SKIP$/passed=\1 failed=\2 skipped=\3/p'

live() { # the examples and emberctl's own test against a daemon with real microVMs
  local run_dir=$logs/run
  check "daemon starts" \
    start_daemon "$logs/kept/live.log" "$target_dir/debug/emberd" --addr 127.0.0.1:0 \
    --run-dir "$run_dir" --audit-dir "$logs/kept/audit" --pool-size 1 || return 0
  export EMBERD_ADDR=$daemon_addr
  check "templates" "$emberctl" template build python shell || true
  tally "emberctl test" "$emberctl_verdicts" "$emberctl" test
  tally "emberctl test --pack shell" "$emberctl_verdicts" "$emberctl" test --pack shell
  tally "examples" "$example_verdicts" examples/run_all.sh
  check "daemon stops" stop_daemon || cat "$logs/kept/live.log"
  check "nothing is left behind" no_sandbox_left "$run_dir" || true
}

# Secrets of access keys, whole: their ids may be shown.
key_form='emb_[0-9a-z]{8}_[0-9A-Za-z]{32}|e2b_[0-9a-f]{48}'

# Looks for the secret of a key in all that was printed, and in the logs and audit journals of every
# daemon that the tests have started. It is allowed nowhere there: what prints one by design
# (`emberctl key create`) prints it to its test.
no_key_told() { # DIR
  local kind
  grep -qE "$key_form" <<<"emb_a0b1c2d3_$(printf '%032d' 7)" || return 1
  for kind in log audit tally; do
    [[ -n $(find "$1" -name "*.$kind" -size +0 -print -quit) ]] || { echo "no $kind was kept" && return 1; }
  done
  grep -rqaE "$key_form" "$1" || return 0
  grep -raoE ".{0,80}($key_form)" "$1" | sed -E "s/($key_form)/(a key)/" | head -n 20
  return 1
}

no_sandbox_left() { # RUN-DIR
  local left
  left=$(find "$1" -mindepth 1 -name 'sb_*' -prune -print)
  [[ -z $left ]] || { echo "$left" && return 1; }
}

# Ruff is in no package of Debian's: from PyPI, into an environment of its own.
install_ruff() {
  command -v ruff >/dev/null && return
  export RUFF=$target_dir/ruff/bin/ruff
  [[ -x $RUFF ]] && return
  python3 -c 'import ensurepip' 2>/dev/null || install_packages ensurepip:python3-venv
  python3 -m venv "$target_dir/ruff" && "$target_dir/ruff/bin/pip" --quiet install ruff==0.17.6
}

# promtool comes with a server that its package starts: it is taken out of the package.
install_promtool() {
  command -v promtool >/dev/null && return
  local dir=$target_dir/promtool
  export PROMTOOL=$dir/usr/bin/promtool
  [[ -x $PROMTOOL ]] && return
  mkdir -p "$dir" && (
    cd "$dir"
    apt-get download -qq prometheus 2>/dev/null ||
      { as_root apt-get update -qq && apt-get download -qq prometheus; }
    dpkg-deb --fsys-tarfile prometheus_*.deb | tar --extract ./usr/bin/promtool
    rm prometheus_*.deb
  )
}

stage "host packages and Rust"
install_packages "${host_packages[@]}" shellcheck:shellcheck unsquashfs:squashfs-tools node:nodejs \
  ip:iproute2 openssl:openssl git:git dropbear:dropbear-bin
install_rust
cargo fmt --version >/dev/null 2>&1 || rustup --quiet component add rustfmt
cargo clippy --version >/dev/null 2>&1 || rustup --quiet component add clippy

install_ruff || true
install_promtool || true
scripts/clients.sh tools || true
scripts/clients.sh mcp || true
tally "linters" "$lint_verdicts" scripts/lint.sh
check "rustfmt" cargo fmt --all --check || true
check "clippy" cargo clippy --quiet --locked --workspace --all-targets -- -D warnings || true
# Of the whole workspace too, so that what crates share is not built again.
check "clippy without features" \
  cargo clippy --quiet --locked --workspace --no-default-features -- -D warnings || true
# Builds the binaries too: the same ones serve the images, the tests and the live daemon.
check "build" cargo test --quiet --locked --workspace --no-run || true
if [[ $EMBERD_E2E != off ]]; then
  if ! check "kernel, initramfs, language packs" build_images "$emberctl" python shell node code; then
    [[ $EMBERD_E2E == require ]] || { failed=$((failed - 1)) skipped=$((skipped + 1)); }
  fi
fi
cargo_tests
[[ $EMBERD_E2E == off ]] || live
check "no key in any output" no_key_told "$EMBERD_KEPT" || true
end_stage

echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0)) || exit 1
[[ $EMBERD_E2E != require ]] || ((skipped == 0))
