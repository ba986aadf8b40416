assert 1 == 2, 'with a message'
