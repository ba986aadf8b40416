"""A conversation with emberd by the official MCP client for Python, of either generation.

Usage: conversation.py EMBERCTL ADDR [PACK], where ADDR is that of a daemon, http://HOST:PORT, and
PACK is `shell` or `python`. Speaks with `EMBERCTL mcp` and with ADDR/mcp, checks what is answered,
and prints a transcript.
"""

import asyncio
import contextlib
import os
import sys

import mcp

TOOLS = 12
SUMS = {"shell": "echo $((x + 1))", "python": "x + 1"}


@contextlib.asynccontextmanager
async def session_of_1(emberctl, addr, way):
    """A client of the first generation, which begins with `initialize`."""
    from mcp.client.streamable_http import streamablehttp_client

    if way == "stdio":
        env = {**os.environ, "EMBERD_ADDR": addr}
        server = mcp.StdioServerParameters(command=emberctl, args=["mcp"], env=env)
        streams = mcp.stdio_client(server)
    else:
        streams = streamablehttp_client(f"{addr}/mcp")
    async with streams as pipes, mcp.ClientSession(pipes[0], pipes[1]) as session:
        started = await session.initialize()
        yield session, started.protocolVersion


@contextlib.asynccontextmanager
async def session_of_2(emberctl, addr, way):
    """A client of the second generation, which asks what the server speaks."""
    if way == "stdio":
        env = {**os.environ, "EMBERD_ADDR": addr}
        server = mcp.stdio_client(mcp.StdioServerParameters(command=emberctl, args=["mcp"], env=env))
    else:
        server = f"{addr}/mcp"
    async with mcp.Client(server) as client:
        yield client, client.protocol_version


async def converse(session, version, way, pack):
    print(f"--- {way}, protocol {version}")

    async def call(name, arguments):
        result = await session.call_tool(name, arguments)
        failed = getattr(result, "isError", getattr(result, "is_error", False))
        text = "\n".join(block.text for block in result.content if block.type == "text")
        print(f"{name} {arguments}\n  " + text.replace("\n", "\n  "))
        return text, failed, result

    tools = (await session.list_tools()).tools
    assert len(tools) == TOOLS, tools
    print("tools:", ", ".join(tool.name for tool in tools))
    _, failed, made = await call("create_sandbox", {"pack": pack})
    structured = getattr(made, "structuredContent", getattr(made, "structured_content", None))
    sandbox = structured["sandbox"]
    assert not failed
    await call("run_code", {"sandbox": sandbox, "code": "x=41"})
    text, failed, _ = await call("run_code", {"sandbox": sandbox, "code": SUMS[pack]})
    assert "42" in text and not failed
    text, failed, _ = await call("run_command", {"sandbox": sandbox, "command": "exit 3"})
    assert text.startswith("exit code 3") and not failed
    text, failed, _ = await call("read_file", {"sandbox": sandbox, "path": "/nonexistent"})
    assert "not_found" in text and failed
    resources = await session.list_resources()
    assert len(resources.resources) == 2, resources
    await call("delete_sandbox", {"sandbox": sandbox})


async def main(emberctl, addr, pack="shell"):
    open_session = session_of_2 if hasattr(mcp, "Client") else session_of_1
    for way in ["stdio", "http"]:
        async with open_session(emberctl, addr, way) as (session, version):
            await converse(session, version, way, pack)


asyncio.run(main(*sys.argv[1:]))
