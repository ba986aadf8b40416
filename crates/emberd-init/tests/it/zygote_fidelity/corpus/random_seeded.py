import random
random.seed(1)
print(random.random(), random.randrange(1000), random.choice("abc"))
print(random.Random(2).random())
