#!/usr/bin/env bash
# From a fresh Debian or Ubuntu machine to code that ran in a microVM:
#   scripts/quickstart.sh [--keep]
# --keep leaves the daemon running. A second run takes seconds. Ctrl-C stops all of it, and the next
# run goes on with what is built.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
# shellcheck source=daemon.sh
. "$repo/scripts/daemon.sh"

keep=""
pool=(--pool-size off)
case ${1-} in
  "") ;;
  --keep) keep=yes pool=() ;;
  *) echo "usage: scripts/quickstart.sh [--keep]" >&2 && exit 2 ;;
esac
export EMBERD_ADDR=${EMBERD_ADDR:-127.0.0.1:7777}
emberctl=$bin_dir/emberctl

show() { # prints an emberctl command, then its output
  local word line='$ emberctl'
  for word; do
    [[ $word =~ ^[a-z0-9_-]+$ ]] && line+=" $word" || line+=" ${word@Q}"
  done
  printf '\n    %s\n' "$line"
  "$emberctl" "$@"
}

images_pid=""
images_log=""

# Stops whatever this script has started.
stop_all() {
  local tree
  if [[ -n $images_pid ]]; then
    # One by one: mmdebstrap has a group of its own and ends by no other signal.
    mapfile -t tree < <(stopped_tree "$images_pid")
    kill -KILL "${tree[@]}" 2>/dev/null || true
  fi
  stop_daemon || true
}

# Halts a process and all below it, and lists them.
stopped_tree() { # PID
  local child children
  kill -STOP "$1" 2>/dev/null || return 0
  echo "$1"
  read -r -d '' -a children < <(cat "/proc/$1/task/"*/children 2>/dev/null) || true
  for child in "${children[@]}"; do stopped_tree "$child"; done
}

trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Starts to build the kernel and the Python pack: they take the network's time and one processor,
# the compiler takes the others. In a session of its own, which no Ctrl-C reaches.
start_images() {
  images_log=${TMPDIR:-/tmp}/emberd-quickstart-images-$UID.log
  setsid bash -c 'set -euo pipefail; . scripts/setup.sh; build_kernel_and_packs "$@"' \
    bash "$emberctl" python >"$images_log" 2>&1 </dev/null &
  images_pid=$!
}

# Shows what they print from the beginning, and waits for their end.
finish_images() {
  local pid=$images_pid
  tail --lines=+1 --follow --sleep-interval=0.2 --pid="$pid" "$images_log" &
  local tail_pid=$! code=0
  wait "$pid" || code=$?
  images_pid=
  wait "$tail_pid"
  ((code == 0)) || {
    echo "error: the kernel or the Python pack was not built, see above" >&2
    echo "hint: Debian's packages come over the network: look at /etc/apt/sources.list and proxies," >&2
    echo "hint: then run this again; what is built already is kept" >&2
    return 1
  }
  rm "$images_log"
}

stage "host packages and Rust"
install_packages "${host_packages[@]}"
install_rust
stage "emberctl, which builds the images"
build_binaries emberctl
start_images
stage "emberd and the guest agent; meanwhile the kernel and the Python pack"
build_binaries emberd emberctl
AGENT_ONLY=yes build_initramfs "$emberctl"
stage "what came of the kernel and the Python pack"
finish_images
stage "initramfs"
build_initramfs "$emberctl"

stage "daemon on $EMBERD_ADDR"
log=${TMPDIR:-/tmp}/emberd-quickstart-$UID.log
start_daemon "$log" "$bin_dir/emberd" "${pool[@]}"

stage "Python template: booted once and reused by later runs"
show template build python

stage "a Python sandbox, restored from it"
python=$("$emberctl" create python)
echo "    $python"
show exec "$python" 'print(6*7)'
show exec "$python" 'print(open("/proc/sys/kernel/osrelease").read(), open("/proc/1/comm").read())'
show ls
stage "deleting it"
"$emberctl" rm "$python"

stage "the same in one command"
show run python 'print("hello from a microVM")' --trace

if [[ -n $keep ]]; then
  end_stage
  disown "$daemon_pid"
  cat <<END

The daemon runs as process $daemon_pid and logs to $log. Try:
  scripts/emberctl.sh run python 'print("hello")'
  scripts/emberctl.sh info
  kill $daemon_pid    # stops it and removes every sandbox
END
  daemon_pid=
else
  stage "stopping the daemon"
  stop_daemon
  rm -f "$log"
  end_stage
  cat <<END

It works. Next, in one terminal:
  scripts/serve.sh    # builds the other language packs first
and in another:
  scripts/emberctl.sh run python 'print("hello")'
  scripts/emberctl.sh run shell 'uname -a'
  curl -s http://$EMBERD_ADDR/info
END
fi
