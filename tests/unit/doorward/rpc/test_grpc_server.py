"""Our HTTP/2 server against another implementation's client, by-hand frames, floods and noise."""

import asyncio
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.grpc_wire import BLOCK, GREETING, Client, Server, Wire, call, prefixed, with_path

from doorward.rpc import grpc_server
from doorward.rpc import http2_frames as frames
from doorward.rpc.http2_calls import BURST, WINDOW_BYTES
from doorward.rpc.http2_connection import Connection


async def test_a_unary_call_is_answered():
    client = Client(Server())
    for message in (b"abc", b"", b"x" * 100_000, b"again"):
        body, headers, ended = client.answer(client.ask(message))
        assert (body, headers["grpc-status"], ended) == (prefixed(message[::-1]), "0", True)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=40_000), min_size=1, max_size=6), st.integers(0, 70_000), st.integers(1, 50_000))
async def test_answers_respect_the_peers_windows(messages: list[bytes], initial: int, step: int):
    client = Client(Server(), acknowledges=False, INITIAL_WINDOW_SIZE=initial)
    streams = [client.ask(message) for message in messages]
    for stream, message in zip(streams, messages, strict=True):
        while not client.answer(stream)[2]:
            client.h2.increment_flow_control_window(step)
            client.h2.increment_flow_control_window(step, stream)
            client.step()
        assert client.answer(stream)[0] == prefixed(message[::-1])


async def test_however_the_bytes_are_cut_the_answers_are_the_same():
    data = GREETING + b"".join(call(2 * number + 1, bytes([number]) * number) for number in range(20))
    whole = Server().feed(data)
    for size in (1, 2, 7, 9, 10, 100):
        server = Server()
        pieces: list[tuple[int, int, int, bytes]] = []
        for start in range(0, len(data), size):
            pieces += server.feed(data[start : start + size])
        assert pieces == whole


async def test_a_padded_message_with_priority_and_continuations_is_read():
    server = Server()
    padded = frames.frame(
        frames.HEADERS, frames.PADDED | frames.WITH_PRIORITY, 1, b"\x03" + b"\0" * 5 + BLOCK[:10] + b"\0\0\0"
    )
    rest = frames.frame(frames.CONTINUATION, 0, 1, BLOCK[10:20]) + frames.frame(
        frames.CONTINUATION, frames.END_HEADERS, 1, BLOCK[20:]
    )
    data = frames.frame(frames.DATA, frames.PADDED | frames.END_STREAM, 1, b"\x02" + prefixed(b"hi") + b"\0\0")
    server.feed(GREETING + padded + rest + data)
    assert server.served == [b"hi"]


async def test_request_trailers_end_a_call():
    client = Client(Server())
    stream = client.open()
    client.h2.send_data(stream, prefixed(b"ab"))
    client.h2.send_headers(stream, [("x-trailer", "1")], end_stream=True)
    client.step()
    assert client.answer(stream)[0] == prefixed(b"ba")


@pytest.mark.parametrize(
    ("path", "method", "content_type", "status"),
    [
        ("/a/Other", "POST", "application/grpc", "12"),
        ("/a/Check/", "POST", "application/grpc", "12"),
        ("//a/Check", "POST", "application/grpc", "12"),
        ("/a/check", "POST", "application/grpc", "12"),
    ],
)
async def test_s22_only_exactly_our_paths_are_served(path: str, method: str, content_type: str, status: str):
    server = Server()
    answers = server.feed(GREETING + call(1, block=with_path(path, method, content_type)))
    assert server.served == []
    assert (b"grpc-status" + bytes([len(status)]) + status.encode()) in answers[-1][3]


@pytest.mark.parametrize("method", ["GET", "post", "OPTIONS", ""])
async def test_s22_another_method_is_no_call(method: str):
    server = Server()
    answers = server.feed(GREETING + call(1, block=with_path("/a/Check", method)))
    assert server.served == []
    assert b"415" in answers[-1][3]


@pytest.mark.parametrize(
    "headers",
    [
        [(b":path", b"a/Check")],
        [(b":path", b"/a/Check"), (b":path", b"/a/Check")],
        [(b":path", b"")],
        [(b":status", b"200"), (b":path", b"/a/Check")],
        [(b"x", b"y"), (b":path", b"/a/Check")],
        [(b":path", b"/a/Check"), (b"Upper", b"y")],
        [(b":path", b"/a/Check"), (b"connection", b"close")],
        [(b":path", b"/a/Check"), (b"x", b"a\nb")],
        [(b":path", b"/a/Check"), (b"grpc-timeout", b"1x")],
        [(b":path", b"/a/Check"), (b"", b"x")],
    ],
)
async def test_s22_malformed_headers_reset_the_stream_and_nothing_is_served(headers: list[tuple[bytes, bytes]]):
    """gRPC-Go took a path without its slash for another method than its authorization did (CVE-2026-33186)."""
    block = frames.header_block([(b":method", b"POST"), (b":scheme", b"http"), *headers])
    server = Server()
    answers = server.feed(GREETING + call(1, block=block) + call(3))
    assert (frames.RST_STREAM, 0, 1, b"\0\0\0\1") in answers
    assert server.served == [b"abc"], "the call after it is served"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        b"\0\0\0\0\5abc",
        b"\1" + prefixed(b"abc")[1:],
        prefixed(b"a") + prefixed(b"b"),
        prefixed(b"a") + b"x",
    ],
)
async def test_a_body_that_is_not_one_message_is_refused(body: bytes):
    server = Server()
    opening = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, BLOCK)
    answers = server.feed(GREETING + opening + frames.frame(frames.DATA, frames.END_STREAM, 1, body))
    assert server.served == []
    assert b"grpc-status\x013" in answers[-1][3]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r",
        GREETING + frames.frame(frames.DATA, 0, 1, b"x"),
        GREETING + frames.frame(frames.HEADERS, frames.END_HEADERS, 2, BLOCK),
        GREETING + frames.frame(frames.HEADERS, frames.END_HEADERS, 0, BLOCK),
        GREETING + frames.frame(frames.HEADERS, 0, 1, BLOCK) + frames.frame(frames.PING, 0, 0, bytes(8)),
        GREETING + frames.frame(frames.HEADERS, 0, 1, BLOCK) + frames.frame(frames.CONTINUATION, 0, 3, b""),
        GREETING + frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, BLOCK),
        GREETING + frames.frame(frames.HEADERS, frames.END_HEADERS | frames.PADDED, 1, b"\xff" + BLOCK[:9]),
        GREETING + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
        GREETING + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xbe"),
        GREETING + struct.pack(">BHBBI", 1, 0, 0, 0, 1),
        GREETING + struct.pack(">BHBBI", 0, 16_385, 0, 0, 1),
        GREETING + frames.frame(frames.SETTINGS, 0, 0, b"12345"),
        GREETING + frames.frame(frames.SETTINGS, 0, 1, b""),
        GREETING + frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31}),
        GREETING + frames.settings({frames.MAX_FRAME_SIZE: 100}),
        GREETING + frames.window_update(0, 0),
        GREETING + frames.window_update(0, 2**31 - 1) + frames.window_update(0, 2**31 - 1),
        GREETING + frames.window_update(9, 1),
        GREETING + frames.frame(frames.PING, 0, 0, b"1"),
        GREETING + frames.reset(5, 8),
        GREETING + frames.frame(frames.PUSH_PROMISE, 0, 1, b"\0\0\0\2"),
        GREETING + call(1, block=with_path("/a/Later")) + frames.frame(frames.DATA, 0, 1, b"x"),
    ],
)
async def test_a_broken_protocol_ends_the_connection_and_serves_nothing(data: bytes):
    server = Server()
    answers = server.feed(data)
    assert server.wire.closed
    assert answers[-1][0] == frames.GOAWAY
    assert server.served == []


async def test_s82_a_header_block_without_end_is_cut():
    """CONTINUATION floods (CVE-2024-30255): memory stays bounded and the connection ends."""
    server = Server()
    block = frames.header_block([(b"x", b"y" * 100)]) * 100
    server.feed(GREETING + frames.frame(frames.HEADERS, 0, 1, BLOCK))
    sent = 0
    while not server.wire.closed:
        server.connection.data_received(frames.frame(frames.CONTINUATION, 0, 1, block))
        sent += len(block)
        assert sent < 1_000_000
    assert server.served == []


async def test_s82_headers_that_unpack_to_more_than_the_limit_are_cut():
    """One indexed field repeated: few bytes on the wire, many in memory (the HPACK bomb)."""
    server = Server()
    name = b"\x40\x7f\x81\x1e" + b"n" * 285 + b"\x7f\xd0\x0f" + b"v" * 2127
    server.feed(GREETING + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, name + b"\xbe" * 10_000))
    assert server.wire.closed


async def test_s82_rapid_resets_cost_nothing_that_stays():
    """Rapid reset (CVE-2023-44487): streams that are opened and reset leave no work and no memory behind."""
    server = Server()
    server.feed(GREETING)
    opening = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, with_path("/a/Later"))
    for number in range(2_000):
        stream = (2 * number + 1).to_bytes(4, "big")
        server.connection.data_received(opening[:5] + stream + opening[9:] + frames.reset(2 * number + 1, 8))
    assert not server.connection.is_busy
    for number in range(2_000, 2_050):
        server.connection.data_received(call(2 * number + 1, block=with_path("/a/Later")))
    await asyncio.sleep(0)
    for number in range(2_000, 2_050):
        server.connection.data_received(frames.reset(2 * number + 1, 8))
    await asyncio.sleep(0)
    assert server.cancelled == 50
    server.answers()
    assert server.feed(call(9_001))[1][3] == prefixed(b"cba")


async def test_s82_a_peer_that_does_not_read_is_not_read():
    server = Server()
    server.feed(GREETING)
    server.connection.pause_writing()
    assert not server.wire.reading
    server.connection.resume_writing()
    assert server.wire.reading


async def test_more_streams_than_announced_are_refused_and_may_go_elsewhere():
    server = Server(max_streams=2)
    server.feed(GREETING + b"".join(call(stream, block=with_path("/a/Later")) for stream in (1, 3)))
    assert (frames.RST_STREAM, 0, 5, b"\0\0\0\7") in server.feed(call(5))


async def test_a_message_over_the_limit_is_refused_before_it_is_sent():
    server = Server()
    opening = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, BLOCK)
    long = frames.frame(frames.DATA, 0, 1, b"\0" + (5_000_000).to_bytes(4, "big") + b"x")
    answers = server.feed(GREETING + opening + long)
    assert any(b"grpc-status\x013" in payload for _, _, _, payload in answers)
    assert not server.connection.is_busy


async def test_the_window_that_a_peer_may_fill_is_bounded_and_given_back():
    server = Server(max_streams=1_000)
    server.feed(GREETING)
    chunk, given, stream = bytes(16_384), 0, 1
    while not server.wire.closed:
        server.connection.data_received(frames.frame(frames.HEADERS, frames.END_HEADERS, stream, BLOCK))
        for _ in range(200):
            server.connection.data_received(frames.frame(frames.DATA, 0, stream, chunk))
            given += len(chunk)
        stream += 2
        assert given < 2 * WINDOW_BYTES
    fair = Client(Server())
    for _ in range(20):
        assert fair.answer(fair.ask(bytes(2_000_000)))[2]


async def test_calls_beyond_one_burst_wait_their_turn_and_the_newest_beyond_the_bound_are_answered_at_once(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(grpc_server, "QUEUE_LIMIT", 10)
    server = Server()
    total = BURST + 15
    answers = server.feed(GREETING + b"".join(call(2 * n + 1, bytes([n])) for n in range(total)))
    bodies = [payload[5:] for kind, _, _, payload in answers if kind == frames.DATA]
    assert bodies == [bytes([n]) for n in range(BURST)] + [b"overloaded"] * 5
    await asyncio.sleep(0)
    assert [p[5:] for kind, _, _, p in server.answers() if kind == frames.DATA] == [
        bytes([n]) for n in range(BURST, BURST + 10)
    ]
    assert not server.host.has_queue


async def test_the_first_answers_of_a_burst_leave_while_the_others_are_being_made(monkeypatch: pytest.MonkeyPatch):
    server = Server()
    written: list[tuple[int, int]] = []
    write = server.wire.write

    def noted(data: bytes | bytearray | memoryview) -> None:
        written.append((len(server.served), bytes(data).count(b"abc"[::-1])))
        write(data)

    monkeypatch.setattr(server.wire, "write", noted)
    answers = server.feed(GREETING + b"".join(call(2 * n + 1) for n in range(11)))
    assert [stream for kind, _, stream, _ in answers if kind == frames.DATA] == [2 * n + 1 for n in range(11)]
    served_by_then, together = zip(*written, strict=True)
    assert served_by_then == (4, 8, 11)
    assert together == (4, 4, 3)


async def test_a_call_whose_deadline_passed_in_the_queue_is_not_made(monkeypatch: pytest.MonkeyPatch):
    server = Server()
    late = BLOCK + frames.header_block([(b"grpc-timeout", b"1n")])
    server.feed(GREETING + b"".join(call(2 * n + 1, b"x", block=late) for n in range(BURST + 3)))
    await asyncio.sleep(0.001)
    assert len(server.served) == BURST
    assert [b"grpc-status\x014" in payload for *_, payload in server.answers()] == [True] * 3


async def test_known_header_blocks_are_remembered_only_without_a_table():
    """A block that means something by a table of past headers may mean something else the next time."""
    server = Server()
    stateful = b"\x40" + BLOCK[1:]  # `:method: POST` enters the table
    first = server.feed(GREETING + call(1, block=stateful) + call(3))
    assert not server.host.known_headers
    assert sum(kind == frames.DATA for kind, *_ in first) == 2
    update = b"\x20"
    server.feed(frames.frame(frames.SETTINGS, frames.ACK, 0) + call(5, block=update + BLOCK))
    server.feed(call(7) + call(9))
    assert list(server.host.known_headers) == [update + BLOCK, BLOCK]
    assert server.served == [b"abc"] * 5
    server.feed(call(11, block=stateful))
    assert server.served == [b"abc"] * 6
    assert server.feed(call(13, block=b"\xbe" + BLOCK[BLOCK.index(b"\0", 1) :]))[-1][0] == frames.GOAWAY


async def test_a_stream_carries_messages_both_ways_and_never_ends_with_ok():
    client = Client(Server())
    for last, expected in ((b"end", "7"), (b"bug", "13"), (None, "13")):
        stream = client.open("/a/Stream")
        for message in (b"one", b"two"):
            client.h2.send_data(stream, prefixed(message))
        client.step()
        await asyncio.sleep(0)
        client.step()
        assert client.answer(stream) == (prefixed(b"eno") + prefixed(b"owt"), client.answer(stream)[1], False)
        if last is not None:
            client.h2.send_data(stream, prefixed(last))
        else:
            client.h2.end_stream(stream)
        client.step()
        for _ in range(3):
            await asyncio.sleep(0)
        client.step()
        _, headers, ended = client.answer(stream)
        assert (headers["grpc-status"], ended) == (expected, True)


@pytest.mark.parametrize(
    ("last", "status", "text"),
    [(b"over", "0", None), (b"denied", "7", "not f%C3%BCr `you`: 100 %25%0A" + "x" * 200)],
)
async def test_a_stream_ends_as_its_handler_says(last: bytes, status: str, text: str | None):
    client = Client(Server())
    stream = client.open("/a/Stream")
    client.h2.send_data(stream, prefixed(last))
    client.step()
    await asyncio.sleep(0)
    client.step()
    _, headers, ended = client.answer(stream)
    assert (headers["grpc-status"], headers.get("grpc-message"), ended) == (status, text, True)


async def test_a_stream_waits_for_a_peer_that_does_not_take_what_it_is_sent():
    """Otherwise whatever a slow watcher does not take would pile up here, beyond every bound that is kept elsewhere."""
    server = Server()
    client = Client(server, acknowledges=False, INITIAL_WINDOW_SIZE=20_000)
    stream = client.open("/a/Stream")
    for _ in range(4):
        client.h2.send_data(stream, prefixed(bytes(9_000)))
        client.step()
    for _ in range(5):
        await asyncio.sleep(0)
    client.step()
    assert server.sent == 2
    assert len(client.answer(stream)[0]) == 20_000
    client.h2.increment_flow_control_window(20_000, stream)
    client.step()
    for _ in range(5):
        await asyncio.sleep(0)
    client.step()
    assert server.sent == 4
    assert client.answer(stream)[0] == prefixed(bytes(9_000)) * 4


async def test_a_stream_waits_while_the_connection_is_full_and_ends_with_it():
    server = Server()
    client = Client(server)
    stream = client.open("/a/Stream")
    server.connection.pause_writing()
    for message in (b"one", b"two"):
        client.h2.send_data(stream, prefixed(message))
    client.step()
    for _ in range(3):
        await asyncio.sleep(0)
    client.step()
    assert (client.answer(stream)[0], server.sent) == (prefixed(b"eno"), 0)
    server.connection.resume_writing()
    for _ in range(3):
        await asyncio.sleep(0)
    client.step()
    assert (client.answer(stream)[0], server.sent) == (prefixed(b"eno") + prefixed(b"owt"), 2)
    server.connection.pause_writing()
    client.h2.send_data(stream, prefixed(b"three"))
    client.step()
    await asyncio.sleep(0)
    client.h2.reset_stream(stream)
    client.step()
    await asyncio.sleep(0)
    assert not server.connection.is_busy


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 60_000), min_size=1, max_size=4), st.integers(1, 40_000), st.integers(5_000, 50_000))
async def test_messages_of_a_stream_arrive_whole_through_any_window(sizes: list[int], initial: int, step: int):
    server = Server()
    client = Client(server, acknowledges=False, INITIAL_WINDOW_SIZE=initial)
    stream = client.open("/a/Stream")
    expected = b""
    for size in sizes:
        message = bytes(index & 0xFF for index in range(size))
        expected += prefixed(message[::-1])
        body = prefixed(message)
        while body:
            room = min(len(body), 16_384)
            client.h2.send_data(stream, body[:room])
            body = body[room:]
        client.step()
    while len(client.answer(stream)[0]) < len(expected):
        client.h2.increment_flow_control_window(step)
        client.h2.increment_flow_control_window(step, stream)
        client.step()
        await asyncio.sleep(0)
        client.step()
    assert client.answer(stream)[0] == expected


async def test_draining_refuses_new_calls_waits_for_running_ones_and_ends_streams_not_ok():
    server = Server()
    client = Client(server)
    later, stream = client.ask(b"x", "/a/Later"), client.open("/a/Stream")
    client.step()
    drain = asyncio.create_task(server.host.drain(0.05))
    await asyncio.sleep(0)
    server.waiting.set_result(b"!")
    await drain
    answers = server.answers()
    assert answers[0][0] == frames.GOAWAY
    assert any(kind == frames.DATA and payload == prefixed(b"x!") and on == later for kind, _, on, payload in answers)
    assert any(b"grpc-status\x0214" in payload for kind, _, on, payload in answers if on == stream)
    assert server.wire.closed
    late = Connection(server.host)
    wire = Wire()
    late.connection_made(wire)
    assert wire.closed, "no connection is taken any more"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
async def test_noise_after_a_greeting_serves_nothing_and_raises_nothing(noise: bytes):
    server = Server()
    server.feed(GREETING + noise)
    assert server.served == []


_MUTATIONS: list[Callable[[bytes, int, int], bytes]] = [
    lambda data, at, value: data[:at] + bytes([value]) + data[at + 1 :],
    lambda data, at, _: data[:at] + data[at + 1 :],
    lambda data, at, value: data[:at] + bytes([value]) + data[at:],
    lambda data, at, _: data[:at],
]


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(_MUTATIONS), st.integers(0, 400), st.integers(0, 255))
async def test_a_spoiled_conversation_raises_nothing(mutate: Callable[[bytes, int, int], bytes], at: int, value: int):
    data = GREETING + call(1) + frames.window_update(0, 10) + call(3, b"xyz") + call(5, block=with_path("/a/Stream"))
    server = Server()
    server.feed(mutate(data, at % len(data), value))
    server.connection.connection_lost(None)
    await asyncio.sleep(0)
    assert set(server.served) <= {b"abc", b"xyz"} or at >= len(GREETING)


async def test_a_refused_connection_is_not_heard():
    """Not even what has come with its handshake."""
    server = Server()
    server.host._admits = lambda _: False
    wire, connection = Wire(), Connection(server.host)
    connection.connection_made(wire)
    connection.data_received(GREETING + call(1, b"hi"))
    connection.connection_lost(None)
    assert wire.closed
    assert not wire.written
    assert server.served == []
