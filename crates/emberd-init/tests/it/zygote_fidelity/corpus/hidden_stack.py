import inspect, sys, traceback
print(sys._getframe().f_back, len(inspect.stack()), len(traceback.extract_stack()))
try:
    sys._getframe(1)
except ValueError as error:
    print(error)
def function():
    traceback.print_stack()
    print([frame.function for frame in inspect.stack()], inspect.currentframe().f_back.f_back)
function()
print({frame.f_code.co_name for frame in sys._current_frames().values()})
