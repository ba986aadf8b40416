import sys
print(sys.flags, sys.warnoptions, sys._xoptions, sys.dont_write_bytecode)
print(sys.getswitchinterval(), sys.getrecursionlimit())
print(sys.float_info, sys.getfilesystemencoding(), sys.getdefaultencoding())
print(hasattr(sys, "ps1"), hasattr(sys, "last_value"), hasattr(sys, "last_traceback"))
print(sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__)
print(sys.gettrace(), sys.getprofile(), sys.exc_info())
