#!/usr/bin/env bash
# Starts a process, writes to it, follows its output, and ends it by a signal.
set -euo pipefail
# shellcheck source=examples/daemon.sh
source "$(dirname "${BASH_SOURCE[0]}")/../daemon.sh"

create shell

argv='["sh", "-c", "trap \"echo bye; exit 3\" TERM; cat; while :; do sleep 0.1; done"]'
pid=$(post "/sandboxes/$id/processes" "{\"argv\": $argv}" | field pid)
process=/sandboxes/$id/processes/$pid

post "$process/stdin?end=true" 'some input'
# The process echoed its input as its second event, so its signal handler is installed.
until [[ $(get "$process") == *'"next_event":2'* ]]; do
  sleep 0.1
done
post "$process/signal" '{"signal": "SIGTERM"}'

# Ends with the process.
events=$(ask --no-buffer "$url$process/events")
expect "$events" 'event: started' '"text":"some input"' '"text":"bye\n"' 'event: exit' '"exit_code":3'
echo "$events"
