import os
print("buffered", end=" ")
pid = os.fork()
if pid:
    os.waitpid(pid, 0)
