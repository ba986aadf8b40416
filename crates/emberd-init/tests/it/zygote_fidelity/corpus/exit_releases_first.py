import atexit, sys
class Held:
    def __del__(self):
        print("released")
def main():
    held = Held()
    sys.exit(0)
atexit.register(print, "atexit")
main()
