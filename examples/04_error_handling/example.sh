#!/usr/bin/env bash
# Shows errors of the API, and results that are not errors.
set -euo pipefail
# shellcheck source=examples/daemon.sh
source "$(dirname "${BASH_SOURCE[0]}")/../daemon.sh"

refused() { # STATUS CODE CURL-ARGUMENTS...
  local status=$1 code=$2 answer
  shift 2
  answer=$(curl --silent --show-error --noproxy '*' --write-out ' %{http_code}' \
    --header 'content-type: application/json' "$@")
  expect "$answer" "\"code\":\"$code\"" " $status"
  echo "$answer"
}

refused 400 unknown_pack "$url/sandboxes" --data '{"language_pack": "cobol"}'
refused 400 invalid_json "$url/sandboxes" --data '{"language_pack":'
refused 404 unknown_sandbox "$url/sandboxes/sb_000000000000/exec" --data '{"code": ""}'
refused 404 unknown_sandbox --request DELETE "$url/sandboxes/sb_000000000000"

create shell

refused 400 invalid_request "$url/sandboxes/$id/exec" --data '{"code": "", "timeout_ms": 0}'

# A time limit is not an error of the API: the answer is a 200 that says so.
answer=$(post "/sandboxes/$id/exec" '{"code": "while :; do :; done", "timeout_ms": 500}')
expect "$answer" '"exit_code":-1' '"error":"execution timed out"'
echo "$answer"
