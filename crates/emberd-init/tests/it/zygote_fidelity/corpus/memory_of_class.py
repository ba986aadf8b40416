import sys
print(sys.getsizeof([]), sys.getsizeof({}), sys.getsizeof(""), sys.intern("x") is sys.intern("x"))
print(object.__subclasses__()[:3])
