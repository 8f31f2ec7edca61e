"""What RFC 9113 says a server does about each break of it: http2_rows.py ADDRESS HOST [CA], over TLS where there is a CA.

Prints a line for each row, as JSON: its name, whether it went as the RFC says, and what was seen. The rows are those of the
RFC's own sections. A break of a connection may be answered by its close, too, or by PROTOCOL_ERROR where the RFC has a code of
its own for it, and a malformed request by status 400.
"""

import json
import socket
import ssl
import struct
import sys

import hpack

address, host, *ca = sys.argv[1:]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
ACK = END_STREAM = 1
END_HEADERS, PADDED = 4, 8
NO_ERROR, PROTOCOL, INTERNAL, FLOW, TIMEOUT, CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION, CONNECT, CALM = range(12)


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(*pairs):
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", *pair) for pair in pairs))


def block(*more, without=(), path="/bad", first=()):
    fields = [(":method", "GET"), (":scheme", "https" if ca else "http"), (":authority", host), (":path", path)]
    fields = [field for field in fields if field[0] not in without]
    return hpack.Encoder().encode([*first, *fields, *more], huffman=False)


def get(stream=1, path="/good"):
    return frame(HEADERS, END_STREAM | END_HEADERS, stream, block(path=path))


def post(stream=1, *more, path="/body"):
    return frame(HEADERS, END_HEADERS, stream, block(*more, path=path))


class Connection:
    def __init__(self, preface=PREFACE + settings()):
        name, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((name, int(port)), timeout=30)
        if ca:
            context = ssl.create_default_context(cafile=ca[0])
            context.set_alpn_protocols(["h2"])
            self.socket = context.wrap_socket(self.socket, server_hostname=host)
        self.bytes = b""
        self.decoder = hpack.Decoder()
        self.send(preface)

    def send(self, what):
        try:
            self.socket.sendall(what)
        except OSError:
            pass  # It was closed: reading tells.

    def read(self, length):
        while len(self.bytes) < length:
            try:
                more = self.socket.recv(65536)
            except TimeoutError:
                raise
            except OSError:
                more = b""
            if not more:
                return None
            self.bytes += more
        taken, self.bytes = self.bytes[:length], self.bytes[length:]
        return taken

    def frame(self):
        """The next one: kind, flags, stream, payload; None at the end."""
        head = self.read(9)
        if head is None:
            return None
        payload = self.read(int.from_bytes(head[:3], "big"))
        return None if payload is None else (head[3], head[4], int.from_bytes(head[5:9], "big"), payload)

    def until(self, seek):
        """What `seek` makes of the first frame that it is about; "closed" where the connection ends before."""
        while (found := self.frame()) is not None:
            kind, flags, stream, payload = found
            if kind == SETTINGS and not flags & ACK:
                self.send(frame(SETTINGS, ACK))
            if (seen := seek(kind, flags, stream, payload)) is not None:
                return seen
        return "closed"

    def error(self):
        """Which error the server answers with, of the connection or of a stream; or a status."""

        def seek(kind, flags, stream, payload):
            if kind == GOAWAY:
                return ["connection", int.from_bytes(payload[4:8], "big")]
            if kind == RST:
                return ["stream", int.from_bytes(payload, "big")]
            if kind == HEADERS:
                return ["status", int(dict(self.decoder.decode(payload))[":status"])]

        return self.until(seek)

    def status(self):
        return self.error() == ["status", 200]


def connection_errors():
    """Name, what is sent after the preface, which errors may be the answer."""
    unended = frame(HEADERS, END_STREAM, 1, block()[:5])
    yield "4.2 a frame beyond the greatest size", post() + frame(DATA, 0, 1, bytes(16385)), [SIZE]
    yield "4.3 a block of headers that can't be decompressed", frame(HEADERS, 5, 1, b"\xff" * 16), [COMPRESSION]
    yield "4.3 another frame within a block of headers", unended + frame(PING, payload=bytes(8)), [PROTOCOL]
    yield "5.1 DATA on an idle stream", frame(DATA, END_STREAM, 1, b"x"), [PROTOCOL]
    yield "5.1 RST_STREAM on an idle stream", frame(RST, 0, 1, bytes(4)), [PROTOCOL]
    yield "5.1 WINDOW_UPDATE on an idle stream", frame(WINDOW, 0, 1, b"\0\0\0\1"), [PROTOCOL]
    yield "5.1 CONTINUATION on an idle stream", frame(CONTINUATION, END_HEADERS, 1, block()), [PROTOCOL]
    yield "5.1.1 an even stream", frame(HEADERS, 5, 2, block()), [PROTOCOL]
    yield "5.1.1 a stream below the last one", get(5) + frame(HEADERS, 5, 3, block()), [PROTOCOL, CLOSED]
    yield "6.1 DATA on no stream", frame(DATA, 0, 0, b"x"), [PROTOCOL]
    yield "6.1 padding beyond DATA", post() + frame(DATA, PADDED | END_STREAM, 1, b"\x09xx"), [PROTOCOL]
    yield "6.2 HEADERS on no stream", frame(HEADERS, 5, 0, block()), [PROTOCOL]
    yield "6.2 HEADERS of another stream within a block", unended + frame(HEADERS, 5, 3, block()), [PROTOCOL]
    yield "6.2 padding beyond HEADERS", frame(HEADERS, 5 | PADDED, 1, b"\xff" + block()), [PROTOCOL]
    yield "6.4 RST_STREAM on no stream", frame(RST, 0, 0, bytes(4)), [PROTOCOL]
    yield "6.4 RST_STREAM of another length", post() + frame(RST, 0, 1, bytes(3)), [SIZE]
    yield "6.5 SETTINGS with an acknowledgement and content", frame(SETTINGS, ACK, 0, bytes(6)), [SIZE]
    yield "6.5 SETTINGS on a stream", frame(SETTINGS, 0, 1), [PROTOCOL]
    yield "6.5 SETTINGS of another length", frame(SETTINGS, 0, 0, bytes(3)), [SIZE]
    yield "6.5.2 ENABLE_PUSH is 2", settings((2, 2)), [PROTOCOL]
    yield "6.5.2 INITIAL_WINDOW_SIZE beyond 2^31-1", settings((4, 1 << 31)), [FLOW]
    yield "6.5.2 MAX_FRAME_SIZE below 16384", settings((5, 16383)), [PROTOCOL]
    yield "6.5.2 MAX_FRAME_SIZE beyond 2^24-1", settings((5, 1 << 24)), [PROTOCOL]
    promise = struct.pack(">I", 2) + block()
    yield "6.6 PUSH_PROMISE from a client", post() + frame(PUSH, END_HEADERS, 1, promise), [PROTOCOL]
    yield "6.7 PING on a stream", frame(PING, 0, 1, bytes(8)), [PROTOCOL]
    yield "6.7 PING of another length", frame(PING, 0, 0, bytes(6)), [SIZE]
    yield "6.8 GOAWAY on a stream", frame(GOAWAY, 0, 1, bytes(8)), [PROTOCOL]
    yield "6.9 WINDOW_UPDATE of 0", frame(WINDOW, 0, 0, bytes(4)), [PROTOCOL]
    yield "6.9 WINDOW_UPDATE of another length", frame(WINDOW, 0, 0, bytes(3)), [SIZE]
    yield "6.9.1 a window beyond 2^31-1", frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff") * 2, [FLOW]
    yield "6.10 CONTINUATION after the end of a block", post() + frame(CONTINUATION, END_HEADERS, 1, b""), [PROTOCOL]
    yield "6.10 CONTINUATION on no stream", unended + frame(CONTINUATION, END_HEADERS, 0, b""), [PROTOCOL]
    resets = b"".join(get(stream, "/reset") + frame(RST, 0, stream, struct.pack(">I", CANCEL)) for stream in range(1, 4001, 2))
    yield "10.5 requests that are given up at once, by the thousand", resets, [CALM, PROTOCOL]
    endless = frame(HEADERS, END_STREAM, 1, block()) + frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 3000) * 200
    yield "10.5 a block of headers without end", endless, [CALM, PROTOCOL, COMPRESSION, SIZE]


def stream_errors():
    """Name, what is sent, which errors of the stream may be the answer; a malformed request may be answered 400 or 431."""
    yield "5.1 DATA after the end of a stream", post() + frame(DATA, END_STREAM, 1, b"x") * 2, [CLOSED]
    yield "6.9 WINDOW_UPDATE of 0 on a stream", post() + frame(WINDOW, 0, 1, bytes(4)), [PROTOCOL]
    yield "6.9.1 a stream's window beyond 2^31-1", post() + frame(WINDOW, 0, 1, b"\x7f\xff\xff\xff") * 2, [FLOW]
    malformed = {
        "8.2.1 a field's name in capitals": block(("X-Capital", "1")),
        "8.2.1 a field's name with a space": block(("x y", "1")),
        "8.2.1 a line feed in a field's value": block(("x", "1\n2")),
        "8.2.1 a NUL in a field's value": block(("x", "1\0002")),
        "8.2.2 Connection": block(("connection", "keep-alive")),
        "8.2.2 Transfer-Encoding": block(("transfer-encoding", "chunked")),
        "8.2.2 TE other than trailers": block(("te", "gzip")),
        "8.3 an unknown pseudo-header": block(first=[(":unknown", "1")]),
        "8.3 a pseudo-header of answers": block(first=[(":status", "200")]),
        "8.3 a pseudo-header after a field": block((":path", "/late"), without=[":path"], first=[("x", "1")]),
        "8.3.1 no method": block(without=[":method"]),
        "8.3.1 no scheme": block(without=[":scheme"]),
        "8.3.1 no path": block(without=[":path"]),
        "8.3.1 an empty path": block(path=""),
        "8.3.1 two methods": block(first=[(":method", "GET")]),
        "8.3.1 two paths": block(first=[(":path", "/bad")]),
        "8.3.1 two authorities": block(first=[(":authority", host)]),
        "8.3.1 Host beside another authority": block(("host", "other.test")),
    }
    for name, headers in malformed.items():
        yield name, frame(HEADERS, 5, 1, headers), [PROTOCOL, "status"]
    yield "8.1.1 more content than said", post(1, ("content-length", "1")) + frame(DATA, END_STREAM, 1, b"xx"), [PROTOCOL, "status"]
    yield "8.1.1 less content than said", post(1, ("content-length", "3")) + frame(DATA, END_STREAM, 1, b"xx"), [PROTOCOL, "status"]


def allowed():
    """Name, and whether what is no break goes on as it should."""
    connection = Connection()
    connection.send(settings((4, 65535)))
    acks = []

    def acknowledged(kind, flags, *_):
        if kind == SETTINGS and flags & ACK:
            acks.append(1)
        return "twice" if len(acks) == 2 else None

    yield "6.5.3 SETTINGS are acknowledged, each", connection.until(acknowledged) == "twice"
    connection.send(frame(PING, 0, 0, b"whatever"))
    echo = connection.until(lambda kind, flags, _, payload: (flags, payload) if kind == PING else None)
    yield "6.7 PING is answered with its content", echo == (ACK, b"whatever")
    connection.send(frame(0xEE, 0xFF, 0, b"unknown") + settings((0xEEEE, 1)) + frame(PRIORITY, 0, 7, bytes(5)) + get(1))
    yield "5.5 unknown frames and settings are ignored", connection.status()
    whole = block(path="/good")
    parts = [frame(HEADERS, END_STREAM, 3, whole[:3]), frame(CONTINUATION, 0, 3, whole[3:9]), frame(CONTINUATION, 4, 3, whole[9:])]
    connection = Connection()
    connection.send(b"".join(parts))
    yield "6.10 a block of headers in several frames", connection.status()
    connection = Connection()
    connection.send(frame(HEADERS, 5 | PADDED, 1, b"\x08" + whole + bytes(8)))
    yield "6.2 padding", connection.status()
    connection.send(frame(GOAWAY, 0, 0, bytes(8)))
    yield "6.8 a client that goes away is let go", connection.until(lambda *_: None) == "closed"
    connection = Connection(b"NO HTTP/2 AT ALL\r\n\r\nXX\r\n\r\n")
    connection.socket.settimeout(10)
    answer = connection.read(9)
    yield "3.4 what is no preface is no HTTP/2", answer is None or answer[3] == GOAWAY or answer.startswith(b"HTTP/1.1 ")


def told(name, holds, seen):
    print(json.dumps([name, bool(holds), repr(seen)]))


for name, sent, errors in connection_errors():
    connection = Connection()
    connection.send(sent)
    seen = connection.error()
    while seen not in ("closed",) and seen[0] != "connection" and not (seen[0] == "stream" and seen[1] in errors):
        seen = connection.error()
    told(name, seen == "closed" or seen[1] in [*errors, PROTOCOL], seen)
for name, sent, errors in stream_errors():
    connection = Connection()
    connection.send(sent)
    seen = connection.error()
    if "status" not in errors:
        while seen != "closed" and seen[0] == "status":
            seen = connection.error()
    refused = "status" in errors and seen in (["status", 400], ["status", 431])
    told(name, seen == "closed" or refused or seen[0] != "status" and seen[1] in [*errors, PROTOCOL], seen)
for name, holds in allowed():
    told(name, holds, "")
