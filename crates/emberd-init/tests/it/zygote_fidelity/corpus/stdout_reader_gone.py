#: stdout-closed
print("nobody reads this")
