import os, sys
print("one")
os.write(1, b"two\n")
print("three", flush=True)
sys.stdout.buffer.write(b"four\n")
sys.stderr.write("five")
os.write(2, b"six\n")
sys.stdout.write("x" * 5000)
os.write(1, b"after more than the buffer holds\n")
