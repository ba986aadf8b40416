import inspect
def function():
    """Says something."""
    return 1
class Thing:
    attribute = 1
print(inspect.getsource(function), inspect.getsource(Thing), inspect.getdoc(function))
print(inspect.getmodule(function).__name__, inspect.getsourcefile(function) == __file__)
