#!/usr/bin/env bash
# Shows timeouts, metadata, lists, freezing, and the events of a sandbox.
set -euo pipefail
# shellcheck source=examples/daemon.sh
source "$(dirname "${BASH_SOURCE[0]}")/../daemon.sh"

job=example-$$
create shell "\"timeout_ms\": 600000, \"metadata\": {\"job\": \"$job\"},
  \"env\": {\"STAGE\": \"test\"}, \"idle\": {\"freeze_ms\": 1000}"

expect "$(get "/sandboxes/$id")" '"timeout_ms":600000' '"expires_at_ms":'
# shellcheck disable=SC2016 # the guest's shell expands it
expect "$(post "/sandboxes/$id/exec" '{"code": "echo $STAGE"}')" '"stdout":"test\n"'
expect "$(post "/sandboxes/$id/touch" '{"timeout_ms": 1200000}')" '"expires_at_ms":'

answer=$(ask --request PATCH --header 'content-type: application/json' \
  --data-binary '{"metadata": {"seen": "yes"}}' "$url/sandboxes/$id")
expect "$answer" '"seen":"yes"'
answer=$(get "/sandboxes?metadata=job=$job&phase=running&phase=frozen")
expect "$answer" "\"id\":\"$id\""
echo "$answer"

# Nobody uses it: its guest is stopped. The next request continues it.
until [[ $(get "/sandboxes?metadata=job=$job&phase=frozen") == *"$id"* ]]; do
  sleep 0.1
done
# shellcheck disable=SC2016 # the guest's shell expands it
expect "$(post "/sandboxes/$id/exec" '{"code": "echo $((6*7))"}')" '"stdout":"42\n"'

# What has become of it so far; without `follow=false` the stream goes on.
answer=$(get "/events?sandbox=$id&follow=false")
expect "$answer" 'event: created' 'event: running' 'event: frozen' 'event: thawed'
echo "$answer"
