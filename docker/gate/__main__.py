"""The program: it serves until it is ended; ``--check`` asks the one that does whether all is well."""

import asyncio
import os
import socket
import sys
from contextlib import suppress

from gate.policy import Policy, policy_of
from gate.server import Gate, log

SOCKET = "/var/run/docker.sock"


async def run(policy: Policy, port: int) -> None:
    """Serve until the process is ended."""
    server = await Gate(policy, SOCKET).serve("0.0.0.0", port)
    log(f"guards {SOCKET} for project {policy.project} on port {port}")
    async with server:
        await server.serve_forever()


def check(port: int) -> None:
    """End with an error unless Docker answers through the gate."""
    with socket.create_connection(("127.0.0.1", port), timeout=4) as connection:
        connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: gate\r\n\r\n")
        answer = connection.recv(100)
    if not answer.startswith(b"HTTP/1.1 200 "):
        sys.exit(f"gate: /_ping says {answer[:40]!r}")


if __name__ == "__main__":
    PORT = int(os.environ.get("MARQUEE_GATE_PORT", "2375"))
    if "--check" in sys.argv:
        check(PORT)
    else:
        with suppress(KeyboardInterrupt):
            asyncio.run(run(policy_of(os.environ), PORT))
