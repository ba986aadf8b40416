import json
nested = []
for _ in range(100000):
    nested = [nested]
json.dumps(nested)
