import builtins
builtins.print("through builtins")
print(builtins.__dict__ is __builtins__.__dict__, __builtins__ is builtins)
_ = 5
print("_" in dir(builtins))
