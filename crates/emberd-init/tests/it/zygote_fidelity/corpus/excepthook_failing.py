import sys
def hook(*_):
    raise KeyError("in the hook")
sys.excepthook = hook
raise ValueError("x")
