import sys
print(type(sys.getrecursionlimit))
