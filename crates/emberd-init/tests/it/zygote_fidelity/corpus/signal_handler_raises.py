import os, signal
class Interrupted(Exception):
    pass
def handler(*_):
    raise Interrupted("by a handler")
signal.signal(signal.SIGUSR1, handler)
os.kill(os.getpid(), signal.SIGUSR1)
