#: stdin one
#: stdin two
import sys
for line in sys.stdin:
    print(repr(line))
