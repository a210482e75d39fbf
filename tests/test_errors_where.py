"""What a log may say of an error."""

from recsys.errors import where


def inner(secret):
    raise ValueError(f"cannot read {secret}")


def test_lines_are_told_and_values_are_not():
    try:
        inner("ada@example.com")
    except ValueError as error:
        told = where(error)
    lines = told.removeprefix("ValueError at ").split(" > ")
    assert len(lines) == 2
    assert all(one.startswith("test_errors_where.py:") for one in lines)
    assert "ada" not in told
