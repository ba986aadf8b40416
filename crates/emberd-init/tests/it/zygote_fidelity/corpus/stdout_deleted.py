import sys
del sys.stdout
try:
    print('x')
except RuntimeError as e:
    print(e, file=sys.stderr)
