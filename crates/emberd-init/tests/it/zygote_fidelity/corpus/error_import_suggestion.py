from collections import nametuple
