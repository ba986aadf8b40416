import json
class Held:
    def __del__(self):
        print("gone")
json.held = Held()
