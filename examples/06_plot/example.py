"""Draws a chart in a context of the pack `code`, and downloads it as PNG."""

import base64
import json
import os
import sys
import tempfile
import urllib.error
import urllib.request

ADDR = os.environ.get("EMBERD_ADDR", "127.0.0.1:7777")
PLOT = os.path.join(tempfile.gettempdir(), "emberd-plot.png")

CODE = """
import matplotlib.pyplot as plt
import numpy as np
x = np.linspace(0, 10, 200)
plt.plot(x, np.sin(x))
plt.title("drawn in a microVM")
float(np.sin(x).mean().round(3))
"""


def call(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{ADDR}{path}", data=data, method=method)
    return urllib.request.urlopen(request)


def main():
    if "code" not in json.load(call("GET", "/info"))["packs"]:
        print("SKIPPED: the pack `code` is not installed; build it with: emberctl image build pack code")
        sys.exit(77)
    sandbox = json.load(call("POST", "/sandboxes", {"language_pack": "code"}))["id"]
    try:
        context = json.load(call("POST", f"/sandboxes/{sandbox}/contexts", {}))["id"]
        with call("POST", f"/sandboxes/{sandbox}/contexts/{context}/run", {"code": CODE}) as events:
            for line in events:
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
    finally:
        call("DELETE", f"/sandboxes/{sandbox}")


main()
