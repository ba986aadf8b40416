#: stdin Ada
#: stdin 36
name = input('name? ')
age = int(input())
print(name, age)
