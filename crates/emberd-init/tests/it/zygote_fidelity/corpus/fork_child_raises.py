import os
pid = os.fork()
if pid:
    print("child:", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
else:
    raise KeyError("child")
