import sys
def hook(kind, value, trace):
    print("hook", kind, value, trace.tb_frame.f_code.co_name, trace.tb_next, sys.exc_info())
    print(sys.last_value is value, sys._getframe().f_back)
sys.excepthook = hook
raise ValueError("x")
