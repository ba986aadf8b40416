import multiprocessing
def fail():
    raise ValueError("in a child")
if __name__ == "__main__":
    process = multiprocessing.get_context("fork").Process(target=fail, name="child")
    process.start()
    process.join()
    print(process.exitcode)
