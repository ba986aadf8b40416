#!/usr/bin/env bash
# From a fresh Debian or Ubuntu machine to code that ran in a microVM:
#   scripts/quickstart.sh [--keep]
# --keep leaves the daemon running. A second run takes seconds.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
# shellcheck source=daemon.sh
. "$repo/scripts/daemon.sh"

keep=
case ${1-} in
  "") ;;
  --keep) keep=yes ;;
  *) echo "usage: scripts/quickstart.sh [--keep]" >&2 && exit 2 ;;
esac
export EMBERD_ADDR=${EMBERD_ADDR:-127.0.0.1:7777}
emberctl=$target_dir/release/emberctl

show() { # prints an emberctl command, then its output
  local word line='$ emberctl'
  for word; do
    [[ $word =~ ^[a-z0-9_-]+$ ]] && line+=" $word" || line+=" ${word@Q}"
  done
  printf '\n    %s\n' "$line"
  "$emberctl" "$@"
}

stage "host packages and Rust"
install_packages "${host_packages[@]}"
install_rust
stage "emberd and emberctl (release build)"
cargo build --release --locked -p emberd -p emberctl
stage "kernel, initramfs, language packs"
build_images "$emberctl" python shell node

stage "daemon on $EMBERD_ADDR"
log=${TMPDIR:-/tmp}/emberd-quickstart-$UID.log
trap 'stop_daemon || true' EXIT
start_daemon "$log" "$target_dir/release/emberd"

stage "Python template: booted once and reused by later runs"
show template build python

stage "a Python sandbox, restored from it"
python=$("$emberctl" create python)
echo "    $python"
show exec "$python" 'print(6*7)'
show exec "$python" 'print(open("/proc/sys/kernel/osrelease").read(), open("/proc/1/comm").read())'
show run python 'print("and another")' --trace

stage "a shell sandbox"
shell=$("$emberctl" create shell)
echo "    $shell"
show exec "$shell" 'uname -a; ps ax | head -n3'
show ls

stage "deleting both sandboxes"
"$emberctl" rm "$python" "$shell"

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
  scripts/serve.sh
and in another:
  scripts/emberctl.sh run python 'print("hello")'
  scripts/emberctl.sh run shell 'uname -a'
  curl -s http://$EMBERD_ADDR/info
END
fi
