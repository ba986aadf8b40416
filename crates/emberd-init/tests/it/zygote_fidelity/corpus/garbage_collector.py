import gc
print(gc.isenabled(), gc.get_threshold(), gc.garbage, gc.callbacks, gc.get_debug())
class Node:
    pass
for _ in range(3):
    node = Node()
    node.itself = node
del node
print(gc.collect())
