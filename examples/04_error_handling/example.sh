#!/usr/bin/env bash
# Shows errors of the API, and results that are not errors.
set -euo pipefail
url=http://${EMBERD_ADDR:-127.0.0.1:7777}

post() { # PATH JSON
  curl --silent --show-error --fail-with-body --noproxy '*' \
    --header 'content-type: application/json' --data "$2" "$url$1"
}

expect() { # ANSWER PART...: every part must be in the answer
  local answer=$1 part
  shift
  for part; do
    [[ $answer == *"$part"* ]] || { echo "no $part in: $answer" >&2; exit 1; }
  done
}

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

id=$(post /sandboxes '{"language_pack": "shell"}' | sed -n 's/.*"id": *"\([^"]*\)".*/\1/p')
trap 'curl --silent --fail --noproxy "*" --request DELETE "$url/sandboxes/$id"' EXIT

refused 400 invalid_request "$url/sandboxes/$id/exec" --data '{"code": "", "timeout_ms": 0}'

# A time limit is not an error of the API: the answer is a 200 that says so.
answer=$(post "/sandboxes/$id/exec" '{"code": "while :; do :; done", "timeout_ms": 500}')
expect "$answer" '"exit_code":-1' '"error":"execution timed out"'
echo "$answer"
