#: env TZ=Asia/Kathmandu
import time, datetime
print(time.tzname, time.timezone, time.localtime(0), datetime.datetime.fromtimestamp(0))
