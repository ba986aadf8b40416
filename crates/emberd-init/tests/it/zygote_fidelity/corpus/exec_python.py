import os, sys
if len(sys.argv) > 1:
    print(sys.argv)
    raise SystemExit(2)
sys.stdout.flush()
os.execv(sys.executable, [sys.executable, __file__, "again"])
