#!/usr/bin/env bash
# Runs shell scripts in a sandbox: exit codes, both outputs, standard input.
set -euo pipefail
# shellcheck source=examples/daemon.sh
source "$(dirname "${BASH_SOURCE[0]}")/../daemon.sh"

create shell

answer=$(post "/sandboxes/$id/exec" '{"code": "echo out; echo err >&2; exit 3"}')
expect "$answer" '"exit_code":3' '"stdout":"out\n"' '"stderr":"err\n"'
echo "$answer"

answer=$(post "/sandboxes/$id/exec" '{"code": "tr a-z A-Z", "stdin": "ember"}')
expect "$answer" '"stdout":"EMBER' '"exit_code":0'
echo "$answer"
