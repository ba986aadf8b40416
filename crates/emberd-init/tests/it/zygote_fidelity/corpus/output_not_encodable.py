import sys
print('ok', '\udcff', file=sys.stderr)
print('\udcff')
