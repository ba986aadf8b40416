nested = []
for _ in range(5000):
    nested = [nested]
print(repr(nested))
