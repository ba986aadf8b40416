import sys
sys.excepthook = lambda *_: sys.exit(17)
raise ValueError("x")
