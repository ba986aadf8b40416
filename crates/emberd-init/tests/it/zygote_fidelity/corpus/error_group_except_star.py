try:
    raise ExceptionGroup("mixed", [ValueError(1), KeyError(2)])
except* ValueError as group:
    print(group.exceptions)
