#: beside random.py
import random
print(random.chosen)
