import os
reading, writing = os.pipe()
if os.fork():
    os.close(writing)
    print("parent", flush=True)
else:
    os.close(reading)
    try:
        while True:
            os.write(writing, b"x" * 65536)
    except BrokenPipeError:
        print("child outlived its parent")
