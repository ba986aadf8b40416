one, two = ValueError(1), ValueError(2)
one.__context__, two.__context__ = two, one
raise one
