#!/usr/bin/env python3
"""Speaks TLS as PostgreSQL servers do, in front of one that cannot: tls-proxy.py CERTIFICATE KEY PORT. Prints its own port."""
import asyncio
import ssl
import struct
import sys

SSL_REQUEST = struct.pack("!ii", 8, 80877103)


async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def main():
    certificate, key, port = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def serve(reader, writer):
        try:
            if await reader.readexactly(8) != SSL_REQUEST:
                # who does not ask for TLS is not let in, as by `hostssl` in pg_hba.conf
                return writer.close()
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(context)
            inner, outer = await asyncio.open_connection("127.0.0.1", int(port))
        except (OSError, asyncio.IncompleteReadError):
            return writer.close()
        await asyncio.gather(pump(reader, outer), pump(inner, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
