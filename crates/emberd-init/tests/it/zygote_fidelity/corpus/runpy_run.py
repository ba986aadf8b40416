#: beside neighbour.py
import runpy
print(sorted(runpy.run_module("neighbour")))
