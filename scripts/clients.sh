#!/usr/bin/env bash
# What the clients in other languages take:
#   scripts/clients.sh generate   writes their generated files, of which a test tells that they are old
#   scripts/clients.sh tools      installs the tools of the Python package's own checks, from PyPI
#                                 into target/python and from npm into target/python-tools
#   scripts/clients.sh mcp        installs the official MCP clients of both generations, from PyPI,
#                                 into target/mcp-1 and target/mcp-2, and the conformance suite, from
#                                 npm, into target/mcp-suite
set -euo pipefail
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/setup.sh"
package=clients/python

# Writes the types of the API from the frozen OpenAPI document, and the synchronous Python package
# from the asynchronous one.
generate() {
  python3 "$package/tools/generate_types.py"
  python3 "$package/tools/generate_sync.py"
}

tools() {
  install_python "$target_dir/python" "$package/requirements.txt"
  install_node "$target_dir/python-tools" "$package/tools/package.json"
}

mcp() {
  for generation in 1 2; do
    install_python "$target_dir/mcp-$generation" "clients/mcp/requirements-$generation.txt"
  done
  install_node "$target_dir/mcp-suite" clients/mcp/conformance/package.json
}

# Makes the directory $1 with the packages of the file $2, unless it has them.
install_node() {
  local directory=$1 wanted=$2
  cmp -s "$wanted" "$directory/installed.json" && return
  install_packages node:nodejs npm:npm
  rm -rf "$directory"
  mkdir -p "$directory"
  cp "$wanted" "$directory/package.json"
  (cd "$directory" && npm install --silent --no-package-lock --no-audit --no-fund) || {
    echo "error: the packages of $wanted were not installed, see above" >&2
    echo "hint: they come from npm over the network: look at proxies and at npm's configuration" >&2
    return 1
  }
  cp "$wanted" "$directory/installed.json"
}

# Makes the environment $1 with the packages of the file $2. A package index that is slow or away
# is asked again.
install_python() {
  local environment=$1 wanted=$2
  cmp -s "$wanted" "$environment/requirements.txt" && return
  python3 -c 'import ensurepip' 2>/dev/null || install_packages ensurepip:python3-venv
  python3 -m venv --clear "$environment"
  "$environment/bin/pip" --quiet install --retries 10 --requirement "$wanted" || {
    echo "error: the packages of $wanted were not installed, see above" >&2
    echo "hint: they come from PyPI over the network: look at proxies and at pip's configuration" >&2
    return 1
  }
  cp "$wanted" "$environment/requirements.txt"
}

case ${1-} in
  generate | tools | mcp) "$1" ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
esac
