import main
print(__name__, main.__name__)
