#!/usr/bin/env bash
# Draws a chart in a context of the pack `code`, and downloads it as PNG.
set -euo pipefail
# shellcheck source=examples/daemon.sh
source "$(dirname "${BASH_SOURCE[0]}")/../daemon.sh"
plot=${TMPDIR:-/tmp}/emberd-plot-sh.png

if [[ ! $(get /info) =~ \"packs\":\[[^]]*\"code\" ]]; then
  echo 'SKIPPED: no pack named code is installed; build it with: emberctl image build pack code'
  exit 77
fi
create code

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
