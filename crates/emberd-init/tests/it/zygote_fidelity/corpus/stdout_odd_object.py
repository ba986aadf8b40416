import sys
class Odd:
    def write(self, text):
        sys.__stdout__.write(text.upper())
    def flush(self):
        raise OSError("cannot flush")
sys.stdout = Odd()
print("text")
