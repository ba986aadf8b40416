#: until 3.11
import sys
class Reason:
    def __str__(self):
        raise ValueError("no text")
sys.exit(Reason())
