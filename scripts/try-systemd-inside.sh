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
# Microseconds of processor time that a sandbox has taken, and of those that passed while there was
# something to do: periods of 100 ms. The clock would count what the host of this guest did meanwhile.
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

# Number of the next event of a program that goes on in sandbox $a.
next_event() { curl -s "http://127.0.0.1:7777/sandboxes/$a/processes/$counter" | jq .next_event; }

outlives() { # HOW
  local before after next
  before=$(vmms)
  next=$(next_event)
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

# What each of the eight has taken in some time: microseconds, and permille of a processor. The clock of
# this guest leaps where its host stopped it while it was idle: then once more.
measure() { # SECONDS
  local index before began leapt passed
  for _ in 1 2 3; do
    before=() began=() took=() shares=() leapt=0
    for id in "${eight[@]}"; do
      before+=("$(used "$id")")
      began+=("$(passed "$id")")
    done
    sleep "$1"
    for index in "${!eight[@]}"; do
      id=${eight[index]}
      passed=$(($(passed "$id") - began[index]))
      ((passed < $1 * 1500000)) || leapt=1
      took+=($(($(used "$id") - before[index])))
      shares+=($((took[index] * 1000 / passed)))
    done
    ((leapt)) || break
  done
  echo "$unit: eight sandboxes have taken ${shares[*]} permille of a processor"
}

# The sum of what four of the eight have taken, in per cent of what the other four have.
odds() { # INDEX OTHER-INDEX
  local index sum=0 other=0
  for index in 0 1 2 3; do
    ((sum += took[$1 + index], other += took[$2 + index])) || true
  done
  echo $((sum * 100 / other))
}

within() { # NUMBER LEAST MOST
  echo $(($1 >= $2 && $1 <= $3))
}

# Eight sandboxes spin, each with half of its memory in use, beside one that has nothing to do.
under_stress() {
  local id index weight memory limit=$((192 << 20))
  eight=()
  for weight in 400 400 400 400 100 100 100 100; do
    eight+=("$(emberctl create shell --cpu-weight "$weight")")
  done
  for id in "${eight[@]}"; do
    process "$id" '{ head -c 96M /dev/zero; exec sleep 10000; } | tail' >/dev/null
  done
  for id in "${eight[@]}"; do
    for _ in $(seq 300); do
      (($(cat "$base/$id/memory.current") > 96 << 20)) && break
      sleep 0.2
    done
  done
  for id in "${eight[@]}"; do
    process "$id" 'while :; do :; done & while :; do :; done' >/dev/null
  done
  measure 20
  expect "$unit: four times the weight, about four times the processor" \
    "$(within "$(odds 0 4)" 280 560)" 1
  expect "$unit: one without load answers" "$(timeout 30 emberctl exec "$b" 'echo 42')" 42
  for index in "${!eight[@]}"; do
    weight=$((index < 4 ? 100 : 400))
    emberctl update "${eight[index]}" --cpu-weight "$weight" >/dev/null
  done
  measure 20
  expect "$unit: weights are changed live" "$(within "$(odds 4 0)" 280 560)" 1
  for id in "${eight[@]}"; do emberctl update "$id" --cpu 10 --cpu-weight default >/dev/null; done
  measure 30
  for index in "${!eight[@]}"; do
    expect "$unit: a tenth of a processor" "$(within "${shares[index]}" 90 110)" 1
  done
  expect "$unit: one without load answers" "$(timeout 30 emberctl exec "$b" 'echo 42')" 42
  emberctl update "${eight[0]}" --cpu 30 >/dev/null
  measure 20
  expect "$unit: three tenths for one of them" \
    "$(within "${shares[0]}" 270 330) $(within "${shares[1]}" 90 110)" "1 1"
  for id in "${eight[@]}"; do
    memory=$(cat "$base/$id/memory.current")
    expect "$unit: half of its memory is in use, and no more than its limit" \
      "$(within "$memory" $((96 << 20)) "$limit") $(cat "$base/$id/memory.max")" "1 $limit"
    expect "$unit: nobody is out of memory" \
      "$(awk '/^oom_kill / {print $2}' "$base/$id/memory.events")" 0
  done

  process "${eight[0]}" 'f() { f | f & f; }; f' >/dev/null
  sleep 5
  expect "$unit: a fork bomb is bounded" $(($(cat "$base/${eight[0]}/pids.current") <= 64)) 1
  emberctl rm "${eight[@]}" >/dev/null
}

# One VMM uses up the memory of its cgroup: it ends, its callers learn why, and nobody else does.
out_of_memory() {
  local hungry before error reason="its VMM ran out of the memory of its cgroup"
  before=$(next_event)
  hungry=$(emberctl create shell)
  error=$(emberctl exec "$hungry" 'tail /dev/zero' 2>&1 >/dev/null)
  expect "$unit: the error of the program" \
    "$(grep -c "$hungry is gone: $reason" <<<"$error")" 1
  expect "$unit: the reason" \
    "$(curl -s "http://127.0.0.1:7777/sandboxes/$hungry" | jq -r '"\(.phase) \(.reason)"')" \
    "gone $reason"
  expect "$unit: the event" \
    "$(emberctl events --sandbox "$hungry" --json | jq -r 'select(.event == "gone").reason')" \
    "$reason"
  expect "$unit: the next request" \
    "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:7777/sandboxes/$hungry/exec" \
      -d '{"code": "true"}')" 410
  expect "$unit: the others live" "$(emberctl exec "$b" 'echo 42')" 42
  sleep 1
  expect "$unit: their programs go on" $(($(next_event) > before)) 1
  expect "$unit: the unit of VMMs" "$(systemctl is-active "$of_vmms")" active
  emberctl rm "$hungry" >/dev/null
  sleep 1
  expect "$unit: nothing is left of it" \
    "$(find "$base" "$run" -path "*$hungry*") $(pgrep -fc "$hungry")" " 0"
}

try() { # UNIT BASE UNIT-OF-VMMS
  unit=$1 base=/sys/fs/cgroup/system.slice/$2 run=/var/lib/$1/run of_vmms=$3
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

  under_stress
  out_of_memory

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
