print(open('/proc/self/cmdline').read())
