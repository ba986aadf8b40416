import collections, enum
Point = collections.namedtuple("Point", "x y")
print(Point(1, 2), Point.__module__)
Colour = enum.Enum("Colour", "RED GREEN")
print(Colour.RED, Colour.__module__)
