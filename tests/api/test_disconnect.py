import json

import pytest

from tests.waiting import wait_until

from .conftest import Served
from .speaker import Speaker


def ask(served: Served, *, stream: bool):
    body = json.dumps(
        {
            "model": "gemma3n",
            "messages": [{"role": "user", "content": "Hi"}],
            "stream": stream,
            "ignore_eos": True,
        }
    ).encode()
    connection = served.connect()
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    return connection


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_client_that_hangs_up_while_the_model_computes_ends_its_request(
    served: Served, speaker: Speaker, stream
):
    speaker.may_decode.clear()
    connection = ask(served, stream=stream)
    wait_until(lambda: speaker.requests)
    if stream:
        received = b""
        while b'"content":"H"' not in received:
            more = connection.recv(65_536)
            assert more, received
            received += more
    connection.close()
    wait_until(lambda: served.engine.num_running == 0)
    speaker.may_decode.set()
    assert speaker.released.wait(10)
    assert served.chat().status_code == 200


def test_a_client_that_hangs_up_while_it_waits_in_line_leaves_it(served: Served, speaker: Speaker):
    speaker.may_decode.clear()
    connections = [ask(served, stream=bool(i % 2)) for i in range(4)]
    wait_until(lambda: served.engine.num_waiting == 2)
    for connection in connections:
        connection.close()
    wait_until(lambda: served.engine.num_waiting == served.engine.num_running == 0)
    speaker.may_decode.set()
    assert served.chat().status_code == 200


def test_a_client_that_hangs_up_within_its_body_hurts_nobody(served: Served, speaker: Speaker):
    with served.connect() as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert served.chat().status_code == 200
    assert len(speaker.requests) == 1
