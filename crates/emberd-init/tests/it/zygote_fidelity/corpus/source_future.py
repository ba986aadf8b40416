from __future__ import annotations
def function(value: undefined) -> also_undefined:
    pass
print(function.__annotations__)
print(eval("__import__('sys')._getframe().f_code.co_flags & 0x1000000"))
