def first():
    raise ValueError("first")
try:
    first()
except ValueError as error:
    try:
        raise KeyError("second") from error
    except KeyError:
        raise RuntimeError("third")
