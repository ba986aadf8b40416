import threading, _thread
local = threading.local()
local.value = 1
print(local.value, _thread._count(), threading.active_count())
