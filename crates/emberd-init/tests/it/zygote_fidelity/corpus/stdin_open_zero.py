#: stdin abc
print(open(0).read())
