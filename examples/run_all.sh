#!/usr/bin/env bash
# Runs every example against the daemon at EMBERD_ADDR. Prints one line for each, and the output of
# examples that failed. Exits non-zero if any failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

failed=0
for example in */example.py */example.sh; do
  case $example in
    *.py) run=(python3 "$example") ;;
    *.sh) run=(bash "$example") ;;
  esac
  if printed=$("${run[@]}" 2>&1); then
    echo "example $example ... ok"
  else
    echo "example $example ... FAILED"
    echo "$printed"
    failed=1
  fi
done
exit "$failed"
