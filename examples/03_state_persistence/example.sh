#!/usr/bin/env bash
# Shows that files outlive the exec that wrote them.
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

id=$(post /sandboxes '{"language_pack": "shell"}' | sed -n 's/.*"id": *"\([^"]*\)".*/\1/p')
trap 'curl --silent --fail --noproxy "*" --request DELETE "$url/sandboxes/$id"' EXIT

expect "$(post "/sandboxes/$id/exec" '{"code": "echo remember me > note"}')" '"exit_code":0'
answer=$(post "/sandboxes/$id/exec" '{"code": "cat note"}')
expect "$answer" '"stdout":"remember me\n"'
echo "$answer"

# Variables of the shell do not, because every exec starts a new shell.
expect "$(post "/sandboxes/$id/exec" '{"code": "x=1"}')" '"exit_code":0'
answer=$(post "/sandboxes/$id/exec" '{"code": "set | grep ^x= || echo none"}')
expect "$answer" '"stdout":"none\n"'
echo "$answer"
