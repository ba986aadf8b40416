import os, tempfile
with tempfile.TemporaryDirectory() as directory:
    print(os.path.dirname(directory), tempfile.gettempdir())
kept = tempfile.NamedTemporaryFile()
print(os.path.exists(kept.name))
