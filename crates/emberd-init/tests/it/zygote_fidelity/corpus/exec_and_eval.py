names = {}
exec("def f(): return g()\ndef g(): return 5", names)
print(names["f"](), eval("f() + 1", names), sorted(locals() is globals() and ["same"]))
