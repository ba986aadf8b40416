import __main__
answer = 42
print(__main__.answer, __main__.__file__ == __file__, __name__)
