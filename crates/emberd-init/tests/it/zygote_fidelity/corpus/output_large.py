print('0123456789abcde\n' * 65536, end='')
