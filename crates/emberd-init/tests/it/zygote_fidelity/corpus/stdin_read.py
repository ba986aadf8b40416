#: stdin one
#: stdin zwei ü
import sys
print(repr(sys.stdin.read()))
