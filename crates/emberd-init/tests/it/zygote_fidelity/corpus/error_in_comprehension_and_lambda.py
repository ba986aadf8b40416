apply = lambda function: [function(value) for value in (2, 1, 0)]
apply(lambda value: 1 // value)
