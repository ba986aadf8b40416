import warnings
warnings.simplefilter("error")
eval("1 is 1")
