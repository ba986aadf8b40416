import warnings
warnings.warn("first")
warnings.warn("at the caller", stacklevel=2)
warnings.warn("deprecated", DeprecationWarning)
def function():
    warnings.warn("of the caller", RuntimeWarning, stacklevel=2)
for _ in range(2):
    function()
warnings.warn("beyond", stacklevel=9)
print(warnings.filters)
