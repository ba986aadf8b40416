import atexit, sys
atexit.register(lambda: print("__file__" in globals(), "__cached__" in globals()))
sys.exit()
