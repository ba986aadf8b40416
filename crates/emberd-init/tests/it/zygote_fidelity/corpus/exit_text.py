import sys
print('before')
sys.exit("ended: ü")
