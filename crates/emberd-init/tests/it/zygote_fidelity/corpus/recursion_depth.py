import sys
deepest = 0
def function(depth):
    global deepest
    deepest = depth
    function(depth + 1)
for limit in None, 500, 5000:
    if limit:
        sys.setrecursionlimit(limit)
    try:
        function(1)
    except RecursionError as error:
        print(sys.getrecursionlimit(), deepest, error)
