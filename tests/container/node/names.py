"""The cluster's DNS, as far as Services without an address go: a Service's name leads to its pods.

RFC 1035 §4: one question a message, over UDP; answers of type A, which live for no time at all.
Runs on a thread of its own.
"""

import socket
import struct
import threading

TYPE_A, CLASS_IN = 1, 1
NO_SUCH_NAME = 3
# A response, authoritative; recursion was asked for and is there.
RESPONSE = 0x8580


def question(message):
    """The name that is asked for, its type, and where the question ends."""
    labels, at = [], 12
    while length := message[at]:
        labels.append(message[at + 1:at + 1 + length].decode("ascii"))
        at += 1 + length
    (kind,) = struct.unpack_from(">H", message, at + 1)
    return ".".join(labels).lower(), kind, at + 5


def answer(message, look_up):
    """The answer to a message; `look_up(name)` has a name's addresses, or nothing for one that is unknown."""
    name, kind, end = question(message)
    addresses = look_up(name)
    records = addresses or [] if kind == TYPE_A else []
    flags = RESPONSE | (NO_SUCH_NAME if addresses is None else 0)
    head = message[:2] + struct.pack(">HHHHH", flags, 1, len(records), 0, 0)
    # The name is that of the question, at offset 12.
    return head + message[12:end] + b"".join(
        struct.pack(">HHHIH", 0xC00C, TYPE_A, CLASS_IN, 0, 4) + socket.inet_aton(address) for address in records)


def addresses_of(objects, pods):
    """How to look a name up: `pods` are (namespace, labels, address) of those that run."""
    def look_up(name):
        for thing in objects:
            if thing["kind"] != "Service" or thing["spec"].get("clusterIP") != "None":
                continue
            namespace = thing["metadata"]["namespace"]
            if name == f"{thing['metadata']['name']}.{namespace}.svc.cluster.local":
                wanted = thing["spec"]["selector"].items()
                return [address for where, labels, address in pods if where == namespace and wanted <= labels.items()]
        return None
    return look_up


def serve(address, look_up):
    """Answers at an address, until the process ends."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((address, 53))

    def run():
        while True:
            message, asker = listener.recvfrom(512)
            listener.sendto(answer(message, look_up), asker)
    threading.Thread(target=run, daemon=True).start()
