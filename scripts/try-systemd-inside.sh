#!/usr/bin/env bash
# What try-systemd.sh runs as root in its guest.
exec >/dev/console 2>&1
cd "$(dirname "$0")" || exit
failures=0

expect() { # WHAT IS WANTED
  if [[ $2 == "$3" ]]; then echo "ok: $1"; else
    echo "FAILED: $1: $2, not $3"
    failures=$((failures + 1))
  fi
}

install -m 755 emberd emberctl emberd-init fake-firecracker /usr/bin/
cp ./*.service /etc/systemd/system/
systemd-sysusers "$PWD/emberd.sysusers.conf"
mkdir -p /etc/emberd
cat >/etc/emberd/emberd.toml <<'END'
vmm = "firecracker"
accel = "kvm"
jail = "off"
firecracker = "/usr/bin/fake-firecracker"
guest-ram-mib = 64
disk-mib = "off"
templates = "off"
pool-size = "off"
END
for name in emberd emberd-rootless; do
  mkdir -p "/var/lib/$name"
  cp -r data/* "/var/lib/$name"
done
chown -R emberd: /var/lib/emberd-rootless
systemctl daemon-reload
systemd-analyze verify /etc/systemd/system/emberd*.service
expect "systemd-analyze verify" $? 0

vmm_of() { jq .pid "$run/$1/vmm.json"; }
daemon() { systemctl show -p MainPID --value "$unit"; }
ids() { emberctl ls --json | jq -r '.sandboxes[].id'; }
vmms() { for id in $(ids); do echo "$id $(vmm_of "$id") $(cut -c4- "/proc/$(vmm_of "$id")/cgroup")"; done; }
# Microseconds of processor time that were taken, and that passed while there was something to do: periods
# of 100 ms. The clock would count what the host of this guest did meanwhile.
used() { awk '/^usage_usec/ {print $2}' "$base/$1/cpu.stat"; }
passed() { awk '/^nr_periods/ {print $2 * 100000}' "$base/$1/cpu.stat"; }
process() { # SANDBOX SCRIPT
  jq -n --arg script "$2" '{argv: ["sh", "-c", $script]}' |
    curl -sf "http://127.0.0.1:7777/sandboxes/$1/processes" -d @- | jq .pid
}
serving() {
  for _ in $(seq 300); do
    emberctl ping >/dev/null 2>&1 && return
    sleep 0.2
  done
  journalctl --no-pager -n 20 -u "$unit"
}

outlives() { # HOW
  local before after next
  before=$(vmms)
  next=$(curl -s "http://127.0.0.1:7777/sandboxes/$a/processes/$counter" | jq .next_event)
  case $1 in
    restart) systemctl restart "$unit" ;;
    kill) kill -9 "$(daemon)" ;;
    stop)
      systemctl stop "$unit"
      sleep 1
      systemctl start "$unit"
      ;;
  esac
  sleep 1
  serving
  after=$(vmms)
  expect "$unit: $1: the same sandboxes and VMMs" "$after" "$before"
  expect "$unit: $1: the stream goes on by number" \
    "$(timeout 30 curl -sN "http://127.0.0.1:7777/sandboxes/$a/processes/$counter/events?from=$next" |
      grep -m1 '^data' | jq -rR 'ltrimstr("data: ") | fromjson | "\(.id) \(.text)"')" "$next n$next"
  expect "$unit: $1: an exec" "$(emberctl exec "$b" 'echo 42')" 42
}

try() { # UNIT BASE UNIT-OF-VMMS
  unit=$1 base=/sys/fs/cgroup/system.slice/$2 run=/var/lib/$1/run
  systemctl start "$unit"
  serving
  expect "$unit: limits" "$(curl -s http://127.0.0.1:7777/info | jq -c .limits)" '["memory","cpu","pids"]'
  a=$(emberctl create shell) b=$(emberctl create shell)
  # shellcheck disable=SC2016 # the guest's shell expands it
  counter=$(process "$a" 'while :; do i=$((i + 1)); echo n$i; sleep 0.2; done')
  sleep 2
  expect "$unit: a VMM's cgroup" "$(cut -c4- "/proc/$(vmm_of "$a")/cgroup")" "/system.slice/$2/$a"
  expect "$unit: a VMM is not spared" "$(cat "/proc/$(vmm_of "$a")/oom_score_adj")" 0
  outlives restart
  outlives kill
  outlives stop

  local loads=() before=() began=() index share hungry
  for _ in 1 2 3 4 5 6 7 8; do loads+=("$(emberctl create shell --cpu 10)"); done
  for id in "${loads[@]}"; do process "$id" 'while :; do :; done & while :; do :; done' >/dev/null; done
  sleep 5
  for id in "${loads[@]}"; do
    before+=("$(used "$id")")
    began+=("$(passed "$id")")
  done
  sleep 30
  for index in "${!loads[@]}"; do
    id=${loads[index]}
    share=$((($(used "$id") - before[index]) * 1000 / ($(passed "$id") - began[index])))
    echo "$unit: $id has taken $share of 100 permille"
    expect "$unit: a tenth of a processor" $((share >= 90 && share <= 110)) 1
  done

  process "${loads[0]}" 'f() { f | f & f; }; f' >/dev/null
  sleep 5
  expect "$unit: a fork bomb is bounded" $(($(cat "$base/${loads[0]}/pids.current") <= 64)) 1
  emberctl rm "${loads[@]}" >/dev/null
  hungry=$(emberctl create shell)
  emberctl exec "$hungry" 'tail /dev/zero' >/dev/null
  sleep 2
  expect "$unit: the reason" \
    "$(curl -s "http://127.0.0.1:7777/sandboxes/$hungry" | jq -r .reason | grep -c memory)" 1
  expect "$unit: the others live" "$(emberctl exec "$b" 'echo 42')" 42
  expect "$unit: the unit of VMMs" "$(systemctl is-active "$3")" active

  kill -9 "$(daemon)"
  sleep 1
  serving
  # shellcheck disable=SC2046 # one word each
  emberctl rm $(ids) >/dev/null
  sleep 2
  expect "$unit: cgroups left" "$(find "$base" -name 'sb_*' | wc -l)" 0
  expect "$unit: directories left" "$(find "$run" -name 'sb_*' | wc -l)" 0
}

try emberd emberd-vms.service emberd-vms
emberctl create shell >/dev/null
systemctl stop emberd-vms
expect "the daemon stops with the VMMs" "$(systemctl is-active emberd)" inactive
expect "no VMM is left" "$(pgrep -fc fake-firecracker)" 0
systemctl start emberd
serving
expect "its sandbox is told as gone" "$(emberctl ls --json | jq -r '.sandboxes[].phase')" gone
# shellcheck disable=SC2046 # one word each
emberctl rm $(ids) >/dev/null
systemctl stop emberd emberd-vms
try emberd-rootless emberd-rootless.service emberd-rootless

journalctl --no-pager -p warning -u 'emberd*' | tail -n 20
((failures)) && echo "$failures FAILED" || echo "everything as expected"
