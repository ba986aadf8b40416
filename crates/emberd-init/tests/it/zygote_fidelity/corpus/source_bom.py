print('with a byte order mark ü')
