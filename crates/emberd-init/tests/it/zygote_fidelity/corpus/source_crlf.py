def f():
    return '''a
b'''
print(repr(f()))
f(1)
