import enum, sys
class Status(enum.IntEnum):
    BAD = 12
sys.exit(Status.BAD)
