#: stdin ü
import sys
print(sys.stdin.buffer.read())
