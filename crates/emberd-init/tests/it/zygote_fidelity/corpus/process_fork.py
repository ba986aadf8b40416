import multiprocessing, sys
def work(queue):
    queue.put([__name__, sys.argv[1:], multiprocessing.parent_process() is not None])
if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    print(queue.get())
    process.join()
    print(process.exitcode, multiprocessing.current_process())
