"""Carries TCP connections from this host into a network namespace.

usage: bridge.py NAMESPACE HOST_PORT:NAMESPACE_PORT...

A server with fixed ports (Samba's directory service) runs in a namespace of its own. This program listens
on 127.0.0.1 out here, then moves itself into the namespace: sockets stay where they were made, so the
listening ones keep hearing the host, and every new one reaches the server.
"""

import asyncio
import ctypes
import os
import socket
import sys

CLONE_NEWNET = 0x40000000
CHUNK_BYTES = 64 * 1024
BACKLOG = 256


def listen(port):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(BACKLOG)
    return listener


def enter(namespace):
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(os.path.join("/run/netns", namespace), os.O_RDONLY)
    if libc.setns(handle, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, "cannot enter the namespace: " + os.strerror(code))
    os.close(handle)


async def copy(reader, writer):
    """Copies one direction; the end of the stream is passed on as an end of the stream."""
    try:
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        # A reset on one side: break the other side too, or its client would wait for an answer.
        writer.transport.abort()


def carrier(port):
    async def carry(from_client, to_client):
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            to_client.transport.abort()
            return
        await asyncio.gather(copy(from_client, to_server), copy(from_server, to_client))
        to_server.close()
        to_client.close()

    return carry


async def serve(carried):
    servers = [await asyncio.start_server(carrier(port), sock=listener) for listener, port in carried]
    await asyncio.gather(*(server.serve_forever() for server in servers))


def main(namespace, *pairs):
    carried = []
    for pair in pairs:
        outside, inside = pair.split(":")
        carried.append((listen(int(outside)), int(inside)))
    enter(namespace)
    asyncio.run(serve(carried))


if __name__ == "__main__":
    main(*sys.argv[1:])
