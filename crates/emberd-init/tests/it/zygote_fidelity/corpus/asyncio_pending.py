import asyncio
async def forever():
    try:
        await asyncio.sleep(1000)
    finally:
        print("cancelled")
async def main():
    task = asyncio.create_task(forever())
    await asyncio.sleep(0)
asyncio.run(main())
