import sys
for limit in 0, -1, "1", 1.5, 2**31, True:
    try:
        sys.setrecursionlimit(limit)
    except Exception as error:
        print(type(error), error if type(error) is not RecursionError else "")
print(sys.getrecursionlimit())
sys.setrecursionlimit("many")
