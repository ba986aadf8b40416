class Odd:
    def __del__(self):
        raise ValueError("in a finalizer")
Odd()
print("goes on")
def hook(arguments):
    print("hook", arguments.exc_type, arguments.exc_value)
import sys
sys.unraisablehook = hook
Odd()
