#: stdin from the program's input
import subprocess, sys
print(subprocess.run(["cat"], capture_output=True).stdout)
print(subprocess.run([sys.executable, "-c", "import sys; print(sys.argv); sys.exit(3)", "a"]))
print(subprocess.check_output("echo $0; ls /proc/self/fd | head -3", shell=True))
subprocess.run(["false"], check=True)
