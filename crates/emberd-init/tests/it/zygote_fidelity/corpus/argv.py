#: arg -x
#: arg zwei Wörter
#: arg
#: arg ☃
import sys
print(sys.argv)
print(sys.orig_argv[1:], len(sys.orig_argv))
