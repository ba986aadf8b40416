import io, sys
class Held:
    def __del__(self):
        print("where does this go?")
held = Held()
sys.stdout = io.StringIO()
