#!/usr/bin/env python3
"""Draws a chart in a context of the pack `code`, and downloads it as PNG."""

import base64
import json
import os
import sys
import tempfile

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from daemon import call, sandbox, stream

PLOT = os.path.join(tempfile.gettempdir(), "emberd-plot.png")

CODE = """
import matplotlib.pyplot as plt
import numpy as np
x = np.linspace(0, 10, 200)
plt.plot(x, np.sin(x))
plt.title("drawn in a microVM")
float(np.sin(x).mean().round(3))
"""

_, info = call("GET", "/info")
if "code" not in info["packs"]:
    print("SKIPPED: the pack `code` is not installed; build it with: emberctl image build pack code")
    sys.exit(77)
with sandbox("code") as path:
    status, context = call("POST", path + "/contexts", {})
    assert status == 201, (status, context)
    for line in stream("POST", f"{path}/contexts/{context['id']}/run", {"code": CODE}):
        event = json.loads(line)
        data = event.get("data", {})
        if "image/png" in data:
            with open(PLOT, "wb") as file:
                file.write(base64.b64decode(data["image/png"]))
            print("wrote", PLOT)
        elif event["event"] == "result":
            print("mean:", data["text/plain"])
        elif event["event"] == "error":
            raise SystemExit(event["traceback"])
