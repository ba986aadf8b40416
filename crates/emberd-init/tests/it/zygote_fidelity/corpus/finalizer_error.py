class Odd:
    def __del__(self):
        raise ValueError("at the end")
odd = Odd()
