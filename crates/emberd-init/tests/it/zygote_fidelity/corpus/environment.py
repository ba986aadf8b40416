#: env GREETING=grüß dich
#: env EMPTY=
import os, subprocess
print(list(os.environ.items()))
print(os.environb[b"GREETING"])
os.environ["ADDED"] = "1"
del os.environ["EMPTY"]
print(subprocess.run(["env"], capture_output=True, text=True).stdout)
