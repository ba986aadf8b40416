#: append 20000 total += 1
import atexit

atexit.register(lambda: print(total))
total = 0
