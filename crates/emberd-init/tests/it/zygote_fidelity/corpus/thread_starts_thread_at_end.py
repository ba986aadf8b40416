#: until 3.11
import threading, time
def second():
    print("second")
def first():
    threading.main_thread().join()
    threading.Thread(target=second).start()
threading.Thread(target=first).start()
