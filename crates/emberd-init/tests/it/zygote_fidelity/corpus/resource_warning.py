import warnings
warnings.simplefilter("always")
open(__file__)
