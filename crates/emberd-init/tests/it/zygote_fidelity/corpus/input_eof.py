#: stdin only one
print(input())
print(input('more? '))
