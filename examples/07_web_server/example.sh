#!/usr/bin/env bash
# Starts a web server in a sandbox and talks to it from outside.
set -euo pipefail
# shellcheck source=examples/daemon.sh
source "$(dirname "${BASH_SOURCE[0]}")/../daemon.sh"
port=8001

create python

# A host name cannot contain the id's `_`, so `-` replaces it.
inside() { # PATH: asks what listens on the port
  curl --silent --show-error --noproxy '*' --header "host: $port-${id/_/-}.localhost" "$url$1"
}

answer=$(inside /)
expect "$answer" '"code":"port_closed"'
echo "$answer"

# The server outlives the exec, which ends when it listens.
code="import subprocess, socket, sys, time
subprocess.Popen([sys.executable, '-m', 'http.server', '$port', '--bind', '127.0.0.1'], cwd='/etc',
    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    start_new_session=True)
for attempt in range(600):
    try:
        socket.create_connection(('127.0.0.1', $port)).close()
        sys.exit()
    except ConnectionRefusedError:
        time.sleep(0.1)
sys.exit('the server does not listen')"
answer=$(post "/sandboxes/$id/exec" "{\"code\": \"${code//$'\n'/\\n}\", \"timeout_ms\": 120000}")
expect "$answer" '"exit_code":0'

answer=$(inside /os-release)
expect "$answer" 'NAME='
echo "$answer"

expect "$(get "/sandboxes/$id/metrics")" '"memory_used_bytes":'
