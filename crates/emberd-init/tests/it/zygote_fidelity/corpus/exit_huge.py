#: until 3.11
import sys
print('before')
sys.exit(2**70)
