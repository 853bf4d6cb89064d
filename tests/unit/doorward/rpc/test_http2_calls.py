"""Messages that leave at once, past the task of their stream."""

import asyncio

from tests.support.grpc_wire import Client, Server, prefixed


async def test_a_message_is_sent_at_once_or_not_at_all():
    """Nothing may overtake what waits, and nothing may pile up before a peer that does not take it."""
    server = Server()
    client = Client(server, acknowledges=False, INITIAL_WINDOW_SIZE=50)
    stream = client.open("/a/Stream")

    async def say(message: bytes) -> None:
        client.h2.send_data(stream, prefixed(message))
        client.step()
        await asyncio.sleep(0)
        client.step()

    await say(b"now: too early, the stream has no headers yet")
    await say(b"opens it")
    await say(b"now: fits")
    server.connection.pause_writing()
    await say(b"now: the peer does not read")
    server.connection.resume_writing()
    await say(b"now: beyond the window, which ends here")
    await say(b"waits for the window")
    assert server.at_once == [False, True, False, False]
    expected = prefixed(b"ti snepo") + prefixed(b"stif :won")
    assert client.answer(stream)[0].startswith(expected)
    client.h2.increment_flow_control_window(1_000, stream)
    client.step()
    assert client.answer(stream)[0] == expected + prefixed(b"wodniw eht rof stiaw")
    client.h2.reset_stream(stream)
    client.step()
