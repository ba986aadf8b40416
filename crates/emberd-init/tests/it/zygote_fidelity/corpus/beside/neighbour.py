def fail():
    raise RuntimeError("from a neighbour")
