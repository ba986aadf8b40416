#!/usr/bin/env bash
# Lints what is not Rust: shell scripts by shellcheck, Python by ruff, JavaScript by node; the
# programs of the language packs and those inside their pack.toml among them.
#
# A linter that is not installed is named, and with EMBERD_E2E=require that fails. RUFF names
# another ruff than the one in PATH.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."

inside=$(mktemp -d)
trap 'rm -rf "$inside"' EXIT
python3 scripts/pack_snippets.py "$inside" rootfs/packs/*/pack.toml
status=0

# `node --check` takes one file.
# shellcheck disable=SC2317 # `lint` runs it
check_each() { # FILE...
  local file code=0
  for file; do node --check "$file" || code=1; done
  return "$code"
}

# Runs a linter over the files on standard input.
lint() { # LINTER ARGUMENT...
  local files
  mapfile -t files
  local linter=$1
  [[ $linter != check_each ]] || linter=node
  if ! command -v "$linter" >/dev/null; then
    echo "SKIPPED: ${#files[@]} files are not linted, for want of $linter"
    [[ ${EMBERD_E2E-} != require ]] || status=1
  elif ((${#files[@]} == 0)); then
    echo "error: no files for $linter" >&2
    status=1
  else
    if "$@" "${files[@]}"; then echo "ok: $linter, ${#files[@]} files"; else status=1; fi
  fi
}

lint shellcheck < <(git ls-files '*.sh' .ci/run)
# A warm-up does things for their own sake.
lint shellcheck --severity=warning < <(find "$inside" -name '*.sh')
# Not tests' programs: what they do wrong they do on purpose.
lint "${RUFF:-ruff}" check --quiet --config scripts/ruff.toml \
  < <(git ls-files rootfs/'*.py' examples/'*.py' scripts/'*.py' clients/'*.py' && find "$inside" -name '*.py')
lint check_each < <(git ls-files rootfs/'*.js' && find "$inside" -name '*.js')
exit "$status"
