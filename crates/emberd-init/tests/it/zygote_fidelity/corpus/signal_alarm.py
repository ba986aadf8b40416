import signal, sys, time
def handler(number, frame):
    print("alarm", number, frame.f_code.co_name, frame.f_back)
    sys.exit(5)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.02)
time.sleep(10)
