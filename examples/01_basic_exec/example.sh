#!/usr/bin/env bash
# Creates a Python sandbox, runs code in it and deletes it.
set -euo pipefail
# shellcheck source=examples/daemon.sh
source "$(dirname "${BASH_SOURCE[0]}")/../daemon.sh"

create python

answer=$(post "/sandboxes/$id/exec" '{"code": "print(6*7)"}')
expect "$answer" '"stdout":"42\n"' '"exit_code":0'
echo "$answer"

answer=$(post "/sandboxes/$id/exec" '{
  "code": "import os, sys; print(sys.stdin.read(), sys.argv[1:], os.environ[\"COLOUR\"])",
  "stdin": "hello", "args": ["a", "b"], "env": {"COLOUR": "ember"}
}')
expect "$answer" "hello ['a', 'b'] ember"
echo "$answer"
