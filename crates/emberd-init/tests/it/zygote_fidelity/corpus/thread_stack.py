import threading, traceback
def function():
    traceback.print_stack()
thread = threading.Thread(target=function)
thread.start()
thread.join()
main = threading.main_thread()
print(main.name, main.native_id == threading.get_native_id(), threading.current_thread() is main)
print(threading.enumerate() == [main])
