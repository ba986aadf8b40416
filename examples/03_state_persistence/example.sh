#!/usr/bin/env bash
# Shows that files outlive the exec that wrote them.
set -euo pipefail
# shellcheck source=examples/daemon.sh
source "$(dirname "${BASH_SOURCE[0]}")/../daemon.sh"

create shell

expect "$(post "/sandboxes/$id/exec" '{"code": "echo remember me > note"}')" '"exit_code":0'
answer=$(post "/sandboxes/$id/exec" '{"code": "cat note"}')
expect "$answer" '"stdout":"remember me\n"'
echo "$answer"

# Variables of the shell do not, because every exec starts a new shell.
expect "$(post "/sandboxes/$id/exec" '{"code": "x=1"}')" '"exit_code":0'
answer=$(post "/sandboxes/$id/exec" '{"code": "set | grep ^x= || echo none"}')
expect "$answer" '"stdout":"none\n"'
echo "$answer"
