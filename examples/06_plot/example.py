#!/usr/bin/env python3
"""Draws a chart in a context of the pack `code`, and downloads it as PNG."""

import pathlib
import sys
import tempfile

import emberd

PLOT = pathlib.Path(tempfile.gettempdir(), "emberd-plot.png")

CODE = """
import matplotlib.pyplot as plt
import numpy as np
x = np.linspace(0, 10, 200)
plt.plot(x, np.sin(x))
plt.title("drawn in a microVM")
float(np.sin(x).mean().round(3))
"""

if "code" not in emberd.Client().get_info()["packs"]:
    print("SKIPPED: the pack `code` is not installed; build it with: emberctl image build pack code")
    sys.exit(77)
with emberd.Sandbox.create("code") as sandbox:
    run = sandbox.run_code(CODE).check()
    [picture] = run.images
    assert picture.startswith(b"\x89PNG"), picture[:8]
    PLOT.write_bytes(picture)
    print("wrote", PLOT)
    print("mean:", run.text)
