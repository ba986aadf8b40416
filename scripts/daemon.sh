# shellcheck shell=bash disable=SC2034
# Sourced by the other scripts: runs a daemon in the background while a script needs it.

daemon_pid=
daemon_addr=

# Starts EMBERD with the arguments after LOG; returns once it serves, with `daemon_addr` set.
start_daemon() { # LOG EMBERD ARGUMENT...
  local log=$1 pipes line=
  shift
  pipes=$(mktemp -d)
  mkfifo "$pipes/ready"
  # Its own session, so that Ctrl-C and the end of the terminal do not reach it directly.
  setsid "$@" >"$pipes/ready" 2>"$log" </dev/null &
  daemon_pid=$!
  read -r line <"$pipes/ready" || true
  rm -r "$pipes"
  if [[ $line != "listening on "* ]]; then
    wait "$daemon_pid" || true
    daemon_pid=
    cat "$log" >&2
    echo "error: the daemon did not start" >&2
    return 1
  fi
  daemon_addr=${line##*//}
}

# Stops the daemon and waits until it has removed its sandboxes; fails if it failed.
stop_daemon() {
  local pid=$daemon_pid
  [[ -n $pid ]] || return 0
  daemon_pid=
  kill "$pid" 2>/dev/null || true
  wait "$pid"
}
