"""Calls of every kind to the server of grpc_server.py, over TLS: grpc_calls.py ADDRESS CA HOST; without it: grpc_calls.py ADDRESS - HOST"""

import queue
import sys

import grpc

address, ca, host = sys.argv[1:]
options = [
    ("grpc.default_authority", host),
    ("grpc.ssl_target_name_override", host),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
]
if ca == "-":
    channel = grpc.insecure_channel(address, options)
else:
    with open(ca, "rb") as file:
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(file.read()), options)
TIME = 30


def method(kind, name):
    return getattr(channel, kind)("/test.Calls/" + name)


unary, up = method("unary_unary", "Unary"), method("stream_unary", "Up")
down, both, hang = method("unary_stream", "Down"), method("stream_stream", "Both"), method("unary_stream", "Hang")

# One message each way, with what goes before and after it.
answer, call = unary.with_call(b"ping", timeout=TIME, metadata=[("asked", "yes")])
assert answer == b"ping" and call.code() is grpc.StatusCode.OK, (answer, call)
assert ("head", "yes") in call.initial_metadata(), call.initial_metadata()
trailing = dict(call.trailing_metadata())
assert (trailing["tail"], trailing["tail-bin"]) == ("whole", bytes(range(8))), trailing

# A status that is no success comes with its words.
try:
    unary(b"refuse", timeout=TIME)
    raise AssertionError("it was refused")
except grpc.RpcError as error:
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, error
    assert error.details() == "not now: 100 % sûr", error
    assert ("reason", "because") in error.trailing_metadata(), error
try:
    method("unary_unary", "Unknown")(b"", timeout=TIME)
    raise AssertionError("there is no such method")
except grpc.RpcError as error:
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED, error

# Streams, to one side and to both: each message is answered before the next one is sent.
assert list(down(b"1000", timeout=TIME)) == [b"%d" % number for number in range(1000)]
assert up(iter([b"%d" % number for number in range(1000)]), timeout=TIME).count(b",") == 999
asked = queue.SimpleQueue()
answers = both(iter(asked.get, None), timeout=TIME)
for word in [b"one", b"two", b"three"]:
    asked.put(word)
    assert next(answers) == word.upper()
asked.put(None)
assert list(answers) == [] and answers.code() is grpc.StatusCode.OK

# Larger than any window or buffer, and empty.
large = bytes(range(256)) * (32 * 1024)
assert unary(large, timeout=TIME) == large
assert unary(b"", timeout=TIME) == b""

# Many at once on one connection.
calls = [unary.future(b"%d" % number, timeout=TIME) for number in range(150)]
assert [call.result() for call in calls] == [b"%d" % number for number in range(150)]

# The server hears of it when a caller gives up, and of a deadline.
waiting = hang(b"given up", timeout=300)
assert next(waiting) == b"begun"
waiting.cancel()
try:
    for word in hang(b"too late", timeout=3):
        assert word == b"begun"
    raise AssertionError("it was too late")
except grpc.RpcError as error:
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED, error
print("all calls ended as they should")
