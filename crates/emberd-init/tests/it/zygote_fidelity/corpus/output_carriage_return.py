print('a\rb\r\n\x00\x1b[0m')
