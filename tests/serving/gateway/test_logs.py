"""A line that nobody takes costs no answer."""

import io

import pytest

from serving.gateway.request_log import RequestLog


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stream", [Full(), io.StringIO()])
def test_lines_that_the_stream_refuses_are_counted(stream: io.StringIO) -> None:
    if not isinstance(stream, Full):
        stream.close()
    log = RequestLog(stream, context=())
    for _ in range(3):
        log.write(route="/v1/recommend", status=200)
    assert log.lost == 3
