async def work():
    pass
work()
