import threading
deepest = 0
def function(depth):
    global deepest
    deepest = depth
    function(depth + 1)
def work():
    try:
        function(1)
    except RecursionError:
        print(deepest)
thread = threading.Thread(target=work)
thread.start()
thread.join()
