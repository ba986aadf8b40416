#!/usr/bin/env bash
# Starts a process, writes to it, follows its output, and ends it by a signal.
set -euo pipefail
url=http://${EMBERD_ADDR:-127.0.0.1:7777}

post() { # PATH DATA
  curl --silent --show-error --fail-with-body --noproxy '*' \
    --header 'content-type: application/json' --data-binary "$2" "$url$1"
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

argv='["sh", "-c", "trap \"echo bye; exit 3\" TERM; cat; while :; do sleep 0.1; done"]'
pid=$(post "/sandboxes/$id/processes" "{\"argv\": $argv}" | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')
process=/sandboxes/$id/processes/$pid

post "$process/stdin?end=true" 'some input'
# The process echoed its input as its second event, so its signal handler is installed.
until [[ $(curl --silent --fail --noproxy '*' "$url$process") == *'"next_event":2'* ]]; do
  sleep 0.1
done
post "$process/signal" '{"signal": "SIGTERM"}'

# Ends with the process.
events=$(curl --silent --show-error --fail --noproxy '*' --no-buffer "$url$process/events")
expect "$events" 'event: started' '"text":"some input"' '"text":"bye\n"' 'event: exit' '"exit_code":3'
echo "$events"
