class Held:
    def __del__(self):
        print("held is gone")
def function():
    held = Held()
    raise ValueError("keeps its frames")
import atexit
atexit.register(print, "atexit")
function()
