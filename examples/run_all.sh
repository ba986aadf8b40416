#!/usr/bin/env bash
# Runs every example against the daemon at EMBERD_ADDR. Prints one line for each, and the output of
# examples that failed or were skipped. Exits non-zero if any failed. An example that cannot run
# exits with code 77.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export PYTHONPATH=$PWD/../clients/python/src

failed=0
for example in */example.py */example.sh; do
  case $example in
    *.py) run=(python3 "$example") ;;
    *.sh) run=(bash "$example") ;;
  esac
  code=0
  printed=$("${run[@]}" 2>&1) || code=$?
  case $code in
    0) echo "example $example ... ok" ;;
    77) echo "example $example ... SKIPPED" && echo "$printed" ;;
    *) echo "example $example ... FAILED" && echo "$printed" && failed=1 ;;
  esac
done
exit "$failed"
