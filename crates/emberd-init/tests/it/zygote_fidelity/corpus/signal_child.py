import os, signal
signal.signal(signal.SIGCHLD, lambda *_: print("a child ended"))
os.waitpid(os.spawnlp(os.P_NOWAIT, "true", "true"), 0)
