import sys, threading
started = threading.Event()
def work():
    started.set()
    while True:
        threading.Event().wait()
threading.Thread(target=work, daemon=True).start()
started.wait()
held = open("/dev/null", "w")
held.write("x")
