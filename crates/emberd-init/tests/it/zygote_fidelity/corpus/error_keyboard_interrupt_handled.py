try:
    raise KeyboardInterrupt
except KeyboardInterrupt:
    print("handled")
