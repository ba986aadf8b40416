import atexit, sys
atexit.register(lambda: print(sys.last_type, sys.last_value, "__file__" in globals()))
raise ValueError("x")
