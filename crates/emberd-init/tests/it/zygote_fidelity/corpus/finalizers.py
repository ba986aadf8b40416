class Named:
    def __init__(self, name):
        self.name = name
    def __del__(self):
        print("gone:", self.name)
first = Named("first")
_second = Named("second")
cycle = Named("cycle")
cycle.itself = cycle
def function(default=Named("default")):
    pass
class Holder:
    held = Named("held by a class")
print("end")
