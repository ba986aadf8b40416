import time, datetime
print(time.tzname, time.timezone, time.localtime(0), datetime.datetime.now().astimezone().tzinfo)
