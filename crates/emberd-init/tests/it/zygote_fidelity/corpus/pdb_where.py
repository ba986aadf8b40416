#: stdin where
#: stdin up
#: stdin continue
import pdb
def function():
    pdb.set_trace()
    return 1
function()
print("after")
