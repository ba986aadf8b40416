#!/usr/bin/env bash
# Creates a Python sandbox, runs code in it and deletes it.
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

id=$(post /sandboxes '{"language_pack": "python"}' | sed -n 's/.*"id": *"\([^"]*\)".*/\1/p')
trap 'curl --silent --fail --noproxy "*" --request DELETE "$url/sandboxes/$id"' EXIT

answer=$(post "/sandboxes/$id/exec" '{"code": "print(6*7)"}')
expect "$answer" '"stdout":"42\n"' '"exit_code":0'
echo "$answer"

answer=$(post "/sandboxes/$id/exec" '{
  "code": "import os, sys; print(sys.stdin.read(), sys.argv[1:], os.environ[\"COLOUR\"])",
  "stdin": "hello", "args": ["a", "b"], "env": {"COLOUR": "ember"}
}')
expect "$answer" "hello ['a', 'b'] ember"
echo "$answer"
