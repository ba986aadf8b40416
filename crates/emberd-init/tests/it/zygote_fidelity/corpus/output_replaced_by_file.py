import os, sys
sys.stdout = open("/proc/self/fd/2", "w")
print("to standard error, when it is flushed at the end")
