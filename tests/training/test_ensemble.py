"""Members in processes of their own: the same as one after the other, and nothing lost where a process dies."""

import os
import signal
from functools import partial

import pytest
import torch

from recsys.training.ensemble import train_members


def remembered(folder, how, number):
    """Work that is done once: a second call reads the file of the first."""
    file = folder / str(number)
    if not file.is_file():
        if how == "dies" and os.getpid() != int((folder / "main").read_text()):
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "fails":
            raise ValueError(f"member {number}")
        file.write_text(f"{os.getpid()} {torch.get_num_threads()}")
    return file.read_text()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "main").write_text(str(os.getpid()))
    return tmp_path


@pytest.mark.parametrize(("num", "cores", "processes"), [(1, 4, 1), (3, 1, 1), (2, 2, 2), (5, 3, 3)])
def test_members_are_shared_out_among_the_cores(folder, num, cores, processes):
    work = partial(remembered, folder, "works")
    before = torch.get_num_threads()
    found = [text.split() for text in train_members(work, work, num, cores)]
    assert found[0][0] == str(os.getpid())
    assert len({process for process, _ in found}) == processes
    assert torch.get_num_threads() == before
    if processes > 1:
        assert {threads for _, threads in found} == {"1"}


def test_what_a_process_that_died_left_undone_is_done_here(folder):
    work = partial(remembered, folder, "dies")
    assert {text.split()[0] for text in train_members(work, work, 3, 2)} == {str(os.getpid())}


def test_the_error_of_a_member_comes_out(folder):
    with pytest.raises(ValueError, match="member 1"):
        train_members(partial(first_only, folder), partial(remembered, folder, "fails"), 2, 2)


def first_only(folder, number):
    return remembered(folder, "works" if number == 0 else "fails", number)
