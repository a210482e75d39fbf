"""Errors that are one sentence: what came, what was wanted, what to do.

RecsysError
├── DataError       a table, a file or a column of the user's data
├── ConfigError     a key or a value of a configuration or rule file
│   └── ConflictError   somebody else changed it first
├── BundleError     a bundle that is incomplete, altered or of another version
├── QueryError      a request that cannot be understood
├── ReleaseError    tensors of one release reached a stage of another one
├── RulesLostError  no rules that may serve: a `must` could be broken
└── ServingError    the server could not be started, reached or kept ready

Every entry point turns a RecsysError into that sentence and exit code 2 (Triton: an INVALID_ARG answer, UNSUPPORTED for a
ReleaseError, UNAVAILABLE for a RulesLostError); anything else is a defect of ours and keeps its traceback.
"""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class RecsysError(Exception):
    """Base of all errors a person can cause and can mend."""


class DataError(RecsysError):
    """A table, a file or a column is not as described."""


class ConfigError(RecsysError):
    """A key or a value in a configuration or rule file is not usable."""


class ConflictError(ConfigError):
    """Conflict: another change came between the reading and the writing of this one."""


class BundleError(RecsysError):
    """A bundle is incomplete, was altered or has another schema version."""


class QueryError(RecsysError):
    """A request cannot be understood."""


class ReleaseError(RecsysError):
    """Tensors of one release reached a stage of another one."""


class RulesLostError(RecsysError):
    """No rules may serve: those that were published are missing or damaged, and no copy of them is left."""


class ServingError(RecsysError):
    """The server could not be started, reached or kept ready."""


def where(error: BaseException) -> str:
    """Return the type of an error and the lines it came through, outermost first, for logs: its message may quote a caller."""
    lines = (f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__))
    return f"{type(error).__name__} at {' > '.join(lines)}"


def check_ranges(group: str, **values: tuple[float, float, float]) -> None:
    """Raise ConfigError for the first of key=(value, low, high) out of range; `group` is the configuration group.

    Integer bounds require an integer.
    """
    for key, (value, low, high) in values.items():
        whole = isinstance(low, int) and isinstance(high, int)
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not number or not low <= value <= high:
            kind = "a whole number" if whole else "a number"
            raise ConfigError(f"{group}.{key} is {value!r}; choose {kind} from {low:g} to {high:g}")


def cause_of(error: BaseException) -> BaseException:
    """Return the RecsysError that other errors are wrapped around, else the error itself."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, RecsysError):
        cause = cause.__cause__ or cause.__context__
    return cause or error


def sentence_of(error: BaseException | None) -> str | None:
    """Return the sentence of an error that a user can correct, None for an internal defect.

    Configuration libraries wrap our errors and have their own for misspelt keys; both are for the user to correct.
    """
    if error is not None and isinstance(cause := cause_of(error), RecsysError):
        return str(cause)
    if isinstance(error, OSError) or type(error).__module__.split(".")[0] in ("hydra", "omegaconf"):
        return " ".join(str(error).split())
    return None


@contextmanager
def exit_on_error(interrupted: str = "interrupted") -> Iterator[None]:
    """Print an error's sentence and exit with 2; a defect of ours passes with its traceback.

    After Ctrl-C the exit code is 130, and `interrupted` is what is said.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        if (sentence := sentence_of(error)) is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        raise SystemExit(2) from None
