from multiprocessing import shared_memory
block = shared_memory.SharedMemory(create=True, size=16)
block.buf[:3] = b"abc"
print(bytes(block.buf[:3]))
block.close()
block.unlink()
