#: stdin-lines 65536
import sys, hashlib
print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())
