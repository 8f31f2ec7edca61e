"""A WebSocket server that sends back what it gets. It prints its port."""

import asyncio
import logging

from websockets.asyncio.server import serve

# Clients break the protocol here by intent.
logging.disable()


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def main():
    async with serve(echo, "127.0.0.1", 0, max_size=None, ping_interval=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
