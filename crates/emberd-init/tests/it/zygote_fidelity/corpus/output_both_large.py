import sys
for number in range(20000):
    print(number)
    print(number, file=sys.stderr)
