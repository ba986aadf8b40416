try:
    {}["absent"]
except KeyError:
    raise LookupError("only this") from None
