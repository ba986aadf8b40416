"""The docstring."""
early = list(globals())
import sys
print(early)
for name in early:
    if name not in ("__builtins__", "__loader__", "early"):
        print(name, repr(globals()[name]))
print(type(__builtins__), __builtins__.__name__, type(__loader__), vars(__loader__))
print(sys.modules["__main__"].__dict__ is globals(), sys.modules["__main__"])
