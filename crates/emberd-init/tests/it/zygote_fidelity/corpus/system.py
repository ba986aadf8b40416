import os
print(os.system('exit 3'), os.popen('echo hi').read())
