def function(depth):
    return function(depth + 1)
function(0)
