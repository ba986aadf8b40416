value = 1 +
