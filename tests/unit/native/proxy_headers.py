"""PROXY headers, version 2, as proxies send them."""

import ipaddress
import struct

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def header(family: int = 0x11, addresses: bytes = b"", tlvs: bytes = b"", command: int = 0x21) -> bytes:
    return SIGNATURE + bytes([command, family]) + struct.pack("!H", len(addresses) + len(tlvs)) + addresses + tlvs


def proxied(client: str, tlvs: bytes = b"") -> bytes:
    address = ipaddress.ip_address(client)
    here = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    family = 0x11 if address.version == 4 else 0x21
    return header(family, address.packed + here.packed + struct.pack("!HH", 51234, 8000), tlvs)


LOCAL = header(0, command=0x20)
