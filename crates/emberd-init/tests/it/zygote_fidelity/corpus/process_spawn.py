import multiprocessing
value = 1
class Sample:
    pass
def work(queue, sample):
    queue.put([__name__, value, type(sample).__name__])
if __name__ == "__main__":
    value = 2
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=work, args=(queue, Sample()))
    process.start()
    print(queue.get())
    process.join()
    print(process.exitcode)
