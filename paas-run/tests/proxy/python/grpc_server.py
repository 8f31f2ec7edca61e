"""A gRPC server of every kind of call, over HTTP/2 without TLS. It prints its port, and then a line for each call that ended
because its caller gave it up or its time was over."""

import threading
from concurrent import futures

import grpc


def unary(request, context):
    if request == b"refuse":
        context.set_trailing_metadata([("reason", "because")])
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: 100 % sûr")
    context.send_initial_metadata([("head", dict(context.invocation_metadata()).get("asked", ""))])
    context.set_trailing_metadata([("tail", "whole"), ("tail-bin", bytes(range(8)))])
    return request


def down(request, context):
    for number in range(int(request)):
        yield b"%d" % number


def up(requests, context):
    return b",".join(requests)


def both(requests, context):
    for request in requests:
        yield request.upper()


def hang(request, context):
    ended = threading.Event()

    def end():
        print(request.decode(), flush=True)
        ended.set()

    # Whoever gives the call up may do so before the line after `yield` is reached.
    assert context.add_callback(end)
    yield b"begun"
    ended.wait(60)


handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Down": grpc.unary_stream_rpc_method_handler(down),
    "Up": grpc.stream_unary_rpc_method_handler(up),
    "Both": grpc.stream_stream_rpc_method_handler(both),
    "Hang": grpc.unary_stream_rpc_method_handler(hang),
}
limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
server = grpc.server(futures.ThreadPoolExecutor(8), options=limits)
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Calls", handlers)])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
server.wait_for_termination()
