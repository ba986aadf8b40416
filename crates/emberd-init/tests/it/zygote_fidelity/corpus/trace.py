import sys
events = []
def tracer(frame, event, argument):
    events.append((event, frame.f_code.co_name, frame.f_lineno))
    return tracer
def function():
    return 1
sys.settrace(tracer)
function()
sys.settrace(None)
print(events)
