import signal
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
import os
reading, writing = os.pipe()
os.close(reading)
os.write(writing, b"x")
