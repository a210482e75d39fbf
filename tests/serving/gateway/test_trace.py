"""Request ids and the W3C trace context."""

import uuid

import pytest

from recsys.errors import QueryError
from serving.gateway.trace import Trace, request_id

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_trace_goes_on_with_a_span_of_its_own() -> None:
    trace = Trace.of(f"00-{TRACE}-{SPAN}-01", "congo=t61rcWkgMzE")
    assert (trace.trace_id, trace.flags) == (TRACE, "01")
    assert trace.span_id != SPAN
    assert dict(trace.headers()) == {
        "traceparent": f"00-{TRACE}-{trace.span_id}-01",
        "tracestate": "congo=t61rcWkgMzE",
    }


@pytest.mark.parametrize(
    "parent",
    [
        None,
        "",
        f"00-{TRACE}-{SPAN}",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_what_is_no_trace_starts_a_new_one(parent: str | None) -> None:
    trace = Trace.of(parent, "congo=1")
    assert trace.trace_id != TRACE
    assert int(trace.trace_id, 16)
    assert [name for name, _ in trace.headers()] == ["traceparent"]


def test_a_later_version_may_say_more() -> None:
    assert Trace.of(f"01-{TRACE}-{SPAN}-01-more", None).trace_id == TRACE


@pytest.mark.parametrize("state", ["", "x" * 513, "a=\x01", "a=é"])
def test_a_state_that_is_not_usable_is_dropped(state: str) -> None:
    assert Trace.of(f"00-{TRACE}-{SPAN}-01", state).state == ""


def test_new_request_ids_are_uuids_that_rise_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for milliseconds in (1_000, 1_001, 2**47):
        monkeypatch.setattr("serving.gateway.trace.time.time_ns", lambda at=milliseconds: at * 1_000_000)
        found.append(request_id(None))
    assert found == sorted(found)
    for milliseconds, text in zip((1_000, 1_001, 2**47), found, strict=True):
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert parsed.int >> 80 == milliseconds


def test_request_ids_of_callers() -> None:
    assert request_id("a-B_9.:") == "a-B_9.:"
    for wrong in ("", "a b", "ann@example.org", "x" * 129, "a\n", "é"):
        with pytest.raises(QueryError, match="x-request-id"):
            request_id(wrong)
