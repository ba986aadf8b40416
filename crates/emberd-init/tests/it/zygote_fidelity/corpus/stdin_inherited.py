#: stdin abc
import subprocess
subprocess.run(['cat'])
