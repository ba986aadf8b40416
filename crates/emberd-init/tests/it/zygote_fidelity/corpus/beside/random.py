chosen = 'the neighbour, not the library'
