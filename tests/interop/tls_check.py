"""Python's own TLS, which is OpenSSL's, against a server: tls_check.py HOST PORT CA_FILE. Ends
with an error at once."""

import socket
import ssl
import sys

HOST, PORT, AUTHORITY = sys.argv[1], int(sys.argv[2]), sys.argv[3]
WAIT_SECONDS_MAX = 30


def check(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: got {got!r:.300}, wanted {wanted!r:.300}")


def exactly(stream, count):
    read = b""
    while len(read) < count:
        piece = stream.recv(count - len(read))
        if not piece:
            sys.exit(f"the server has closed after {len(read)} of {count} bytes")
        read += piece
    return read


def talk(version):
    context = ssl.create_default_context(cafile=AUTHORITY)
    context.minimum_version = context.maximum_version = version
    plain = socket.create_connection((HOST, PORT), timeout=WAIT_SECONDS_MAX)
    with context.wrap_socket(plain, server_hostname="localhost") as stream:
        for count in (0, 1, 16384, 16385, 500_000):
            value = bytes(at * 7 % 251 for at in range(count))
            stream.sendall(b"set key 0 0 %d\r\n%s\r\nget key\r\n" % (count, value))
            wanted = b"STORED\r\nVALUE key 0 %d\r\n%s\r\nEND\r\n" % (count, value)
            check(f"{count} bytes by {version.name}", exactly(stream, len(wanted)), wanted)
        stream.sendall(b"mn\r\nquit\r\n")
        check("the last answer", exactly(stream, 4), b"MN\r\n")
        check("the end, which is said", stream.recv(1), b"")


for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    talk(version)
print("passed")
