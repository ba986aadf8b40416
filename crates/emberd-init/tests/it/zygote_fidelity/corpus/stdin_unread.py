#: stdin-lines 65536
print('does not read')
