import atexit
def fail():
    raise ValueError("at exit")
atexit.register(print, "still runs")
atexit.register(fail)
