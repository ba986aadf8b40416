import concurrent.futures
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(list(pool.map(lambda value: value * value, range(5))))
concurrent.futures.ThreadPoolExecutor(1).submit(print, "left to run")
