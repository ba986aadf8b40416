import sys
sys.stderr = None
sys.exit("nobody hears it in the usual way")
