"""Prints who sends which P2P message to whom, as told by events on a NATS server."""

import asyncio
import pathlib
import sys
import tempfile

import nats
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"


def load_schema():
    """Makes Python classes of the schema, so that no generated code has to be kept."""
    out = tempfile.mkdtemp()
    files = [str(path) for path in PROTO.rglob("*.proto")]
    if protoc.main(["protoc", f"-I{PROTO}", f"--python_out={out}", *files]) != 0:
        sys.exit(f"cannot compile the schema in {PROTO}")
    sys.path.insert(0, out)
    import event_pb2

    return event_pb2.Event


async def main(server):
    event_type = load_schema()
    client = await nats.connect(server)
    messages = await client.subscribe("netmsg")
    await client.flush()
    print("listening", file=sys.stderr)
    async for message in messages.messages:
        event = event_type.FromString(message.data)
        # Events of the public peer-observer have no origin.
        node = event.origin.node if event.HasField("origin") else "-"
        meta = event.ebpf_extractor.message.meta
        direction = "from" if meta.inbound else "to"
        text = f"{event.timestamp} {node}: {meta.command} {direction} peer {meta.peer_id}, {meta.size} bytes"
        print(text, flush=True)


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:4222"))
