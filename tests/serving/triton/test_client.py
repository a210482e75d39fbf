"""The client alone; its talks with a real server are in test_server.py."""

import socket
import subprocess
import sys

import numpy as np
import pytest
import tritonclient.grpc as triton
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts import Query
from recsys.errors import QueryError, ServingError
from serving.triton.client import MAX_BATCH, Client, _batches, _tensor, _translated


def query(user: str = "ann") -> Query:
    return Query(user=user, now=1.0)


def free_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return holder.getsockname()[1]


@given(st.lists(st.text(), max_size=100))
def test_batches_keep_every_query_in_order_and_none_is_too_large(users: list[str]) -> None:
    queries = [query(user) for user in users]
    batches = list(_batches(queries))
    assert [one for batch in batches for one in batch] == queries
    assert all(1 <= len(batch) <= MAX_BATCH for batch in batches)


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), min_size=1, max_size=MAX_BATCH))
def test_the_tensor_holds_the_queries(users: list[str]) -> None:
    tensor = _tensor([query(user) for user in users])
    assert (tensor.name(), tensor.datatype(), tensor.shape()) == ("QUERY", "BYTES", [len(users), 1])
    rows = triton._infer_input.deserialize_bytes_tensor(tensor._get_content())
    assert [Query.from_json(row) for row in np.asarray(rows)] == [query(user) for user in users]


def test_no_queries_need_no_server() -> None:
    with Client("127.0.0.1:1") as client:
        assert client.recommend([]) == []


def test_nobody_there_is_one_sentence() -> None:
    url = f"127.0.0.1:{free_port()}"
    with (
        Client(url) as client,
        pytest.raises(ServingError, match=rf"'recommend' at {url} did not answer \(UNAVAILABLE"),
    ):
        client.recommend([query()])


def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        url = f"127.0.0.1:{mute.getsockname()[1]}"
        with Client(url) as client, pytest.raises(ServingError, match=r"did not answer within 0\.3 s"):
            client.recommend([query()], timeout_s=0.3)


@pytest.mark.parametrize("number", [0, MAX_BATCH + 1])
def test_tensors_take_one_batch(number: int) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(QueryError, match=f"{number} queries"):
        client.tensors([query()] * number)


@pytest.mark.parametrize(
    ("status", "kind"),
    [("INVALID_ARGUMENT", QueryError), ("UNAVAILABLE", ServingError), ("INTERNAL", ServingError), (None, ServingError)],
)
def test_statuses_become_our_errors(status: str | None, kind: type) -> None:
    error = triton.InferenceServerException("the message", status and f"StatusCode.{status}")
    translated = _translated(error, "recommend", "host:1", 1.0)
    assert type(translated) is kind
    assert "the message" in str(translated)


def test_a_scheme_is_refused() -> None:
    with pytest.raises(ServingError, match="without a scheme"):
        Client("http://127.0.0.1:8001")


def test_importing_the_client_warns_of_nothing() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", "import serving.triton.client"], check=True)
