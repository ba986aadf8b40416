def fail(error):
    raise error
errors = []
for error in ValueError("a"), TypeError("b"):
    try:
        fail(error)
    except Exception as caught:
        caught.add_note("a note\nof two lines")
        errors.append(caught)
raise ExceptionGroup("several", [*errors, ExceptionGroup("nested", [OSError(2, "c")])])
