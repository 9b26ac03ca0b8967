"""A TCP proxy that puts a round trip of some time between a client and a server: ``latency.py HOST PORT SECONDS``.

Prints its port. What either side sends arrives half a round trip later; a new connection costs one round trip more,
as the handshake of TCP does. The rate is not bounded.
"""

import asyncio
import sys


async def pipe(reader, writer, delay, first):
    loop = asyncio.get_running_loop()
    queue = asyncio.Queue()

    async def forward():
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if data is None:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()

    task = asyncio.ensure_future(forward())
    try:
        while data := await reader.read(1 << 16):
            queue.put_nowait((loop.time() + delay + first, data))
            while queue.qsize() > 256:  # a long file must not lie in memory whole
                await asyncio.sleep(delay / 4)
            first = 0.0
    except OSError:
        pass
    queue.put_nowait((loop.time() + delay, None))
    await asyncio.gather(task, return_exceptions=True)


async def main(host, port, seconds):
    async def serve(reader, writer):
        there, to = await asyncio.open_connection(host, port)
        await asyncio.gather(
            pipe(reader, to, seconds / 2, seconds), pipe(there, writer, seconds / 2, 0.0), return_exceptions=True
        )
        to.close()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
