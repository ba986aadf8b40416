import atexit
for number in range(3):
    atexit.register(print, number)
print("last line")
