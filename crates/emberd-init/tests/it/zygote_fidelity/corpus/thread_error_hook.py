import threading
threading.excepthook = lambda arguments: print(arguments.exc_type, arguments.thread.name)
thread = threading.Thread(target=lambda: 1 / 0, name="worker")
thread.start()
thread.join()
