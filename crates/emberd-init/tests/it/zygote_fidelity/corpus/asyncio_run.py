import asyncio
async def work(number):
    await asyncio.sleep(0.001 * number)
    return number
async def main():
    print(await asyncio.gather(*(work(number) for number in range(3))))
    process = await asyncio.create_subprocess_exec("echo", "hi", stdout=-1)
    print(await process.communicate())
    async with asyncio.TaskGroup() as group:
        group.create_task(work(1))
    raise ValueError("at the end")
asyncio.run(main())
