import os
print('lost')
os.kill(os.getpid(), 9)
