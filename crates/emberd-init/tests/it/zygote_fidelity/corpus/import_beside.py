#: beside neighbour.py
import neighbour
print(neighbour.__name__, neighbour.__file__ == __file__.replace("main", "neighbour"))
neighbour.fail()
