import os
print(open(__file__).fileno(), os.pipe(), os.open("/dev/null", os.O_RDONLY))
print([os.get_inheritable(number) for number in range(3)])
