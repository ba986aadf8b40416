import os
print(os.getsid(0) == os.getpid() or "not its own session")
print(os.getpid() == os.getpgid(0))
