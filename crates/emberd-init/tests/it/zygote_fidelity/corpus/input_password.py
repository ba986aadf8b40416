#: stdin secret
import getpass
print(getpass.getpass("password? "))
