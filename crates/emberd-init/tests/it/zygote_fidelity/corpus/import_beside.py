#: beside neighbour.py
import neighbour
import os
import sys
print(neighbour.__name__, neighbour.__file__ == os.path.join(os.getcwd(), "neighbour.py"))
print(sys.path[0] == os.getcwd(), sys.path[0] == os.path.dirname(__file__))
neighbour.fail()
