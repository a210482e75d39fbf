"""Garbage collections are put off for imports and resumed once; what exists by then is left out of them."""

import gc
from collections.abc import Iterator

import pytest

from recsys.cli.imports import put_off_collections, resume_collections


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_collections_resume_without_what_was_imported() -> None:
    gc.unfreeze()
    put_off_collections()
    assert not gc.isenabled()
    resume_collections()
    assert gc.isenabled()
    frozen = gc.get_freeze_count()
    assert frozen > 0
    kept = [[] for _ in range(1_000)]
    resume_collections()  # of a later job in the same process: what jobs leave behind stays garbage
    assert gc.get_freeze_count() <= frozen
    assert len(kept) == 1_000
