import atexit, os, sys
atexit.register(lambda: print("atexit"))
pid = os.fork()
if pid:
    print("child:", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
else:
    print("in the child")
    sys.exit(8)
