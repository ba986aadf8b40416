#!/usr/bin/env bash
# Shows a sandbox of another size, with a limit of processes.
set -euo pipefail
# shellcheck source=examples/daemon.sh
source "$(dirname "${BASH_SOURCE[0]}")/../daemon.sh"

create shell '"resources": {"vcpus": 1, "memory_mib": 512, "disk_mib": 4096, "pids": 64}'

answer=$(get "/sandboxes/$id")
expect "$answer" '"memory_mib":512' '"disk_mib":4096' '"pids":64'
echo "$answer"

answer=$(post "/sandboxes/$id/exec" '{"code": "df -m / | tail -n 1; grep MemTotal /proc/meminfo"}')
expect "$answer" '"exit_code":0' 'MemTotal'
echo "$answer"
