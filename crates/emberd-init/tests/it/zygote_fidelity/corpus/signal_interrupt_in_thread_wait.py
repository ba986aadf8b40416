import os, signal, threading
signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
stop = threading.Event()
threading.Thread(target=stop.wait, args=(0.3,)).start()
signal.setitimer(signal.ITIMER_REAL, 0.1)
