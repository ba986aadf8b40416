value = '''never closed
more
