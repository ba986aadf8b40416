#!/usr/bin/env bash
# Draws a chart in a context of the pack `code`, and downloads it as PNG.
set -euo pipefail
url=http://${EMBERD_ADDR:-127.0.0.1:7777}
plot=${TMPDIR:-/tmp}/emberd-plot-sh.png

get() { # PATH
  curl --silent --show-error --fail-with-body --noproxy '*' "$url$1"
}

post() { # PATH JSON
  curl --silent --show-error --fail-with-body --noproxy '*' \
    --header 'content-type: application/json' --data "$2" "$url$1"
}

expect() { # ANSWER PART...: every part must be in the answer
  local answer=$1 part
  shift
  for part; do
    [[ $answer == *"$part"* ]] || { echo "no $part in: $answer" >&2; exit 1; }
  done
}

field() { # NAME: of the JSON on standard input
  sed -n "s|.*\"$1\": *\"\([^\"]*\)\".*|\1|p"
}

if [[ ! $(get /info) =~ \"packs\":\[[^]]*\"code\" ]]; then
  echo 'SKIPPED: no pack named code is installed; build it with: emberctl image build pack code'
  exit 77
fi
id=$(post /sandboxes '{"language_pack": "code"}' | field id)
trap 'curl --silent --fail --noproxy "*" --request DELETE "$url/sandboxes/$id"' EXIT

context=/sandboxes/$id/contexts/$(post "/sandboxes/$id/contexts" '{}' | field id)

# Two runs: the second uses the variables of the first.
code="import matplotlib.pyplot as plt
import numpy as np
x = np.linspace(0, 10, 200)
float(np.sin(x).mean().round(3))"
answer=$(post "$context/run" "{\"code\": \"${code//$'\n'/\\n}\"}")
expect "$answer" '"event":"result"' '"event":"end"'
echo "mean: $(field text/plain <<<"$answer")"

code="plt.plot(x, np.sin(x))
plt.title('drawn in a microVM');"
answer=$(post "$context/run" "{\"code\": \"${code//$'\n'/\\n}\"}")
expect "$answer" '"event":"display"' '"image/png":' '"execution_count":2'
field image/png <<<"$answer" | base64 --decode >"$plot"
expect "$(head -c 4 "$plot" | tr -d '\211')" 'PNG'
echo "wrote $plot"
