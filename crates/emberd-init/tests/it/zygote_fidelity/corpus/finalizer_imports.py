class Late:
    def __del__(self):
        try:
            import colorsys
        except ImportError as error:
            print(error)
late = Late()
