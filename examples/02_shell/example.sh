#!/usr/bin/env bash
# Runs shell scripts in a sandbox: exit codes, both outputs, standard input.
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

answer=$(post "/sandboxes/$id/exec" '{"code": "echo out; echo err >&2; exit 3"}')
expect "$answer" '"exit_code":3' '"stdout":"out\n"' '"stderr":"err\n"'
echo "$answer"

answer=$(post "/sandboxes/$id/exec" '{"code": "tr a-z A-Z", "stdin": "ember"}')
expect "$answer" '"stdout":"EMBER' '"exit_code":0'
echo "$answer"
