"""What can go wrong, said in one sentence: what came, what was wanted, what to do.

RecsysError
├── DataError       a table, a file or a column of the user's data
├── ConfigError     a key or a value of a configuration or rule file
├── BundleError     a bundle that is incomplete, altered or of another version
├── QueryError      a request that cannot be understood
└── ServingError    the server could not be started, reached or kept ready

Every entry point turns a RecsysError into that sentence and exit code 2 (Triton: an INVALID_ARG answer); anything else
is a defect of ours and keeps its traceback.
"""


class RecsysError(Exception):
    """Base of all errors a person can cause and can mend."""


class DataError(RecsysError):
    """A table, a file or a column is not as described."""


class ConfigError(RecsysError):
    """A key or a value in a configuration or rule file is not usable."""


class BundleError(RecsysError):
    """A bundle is incomplete, was altered or has another schema version."""


class QueryError(RecsysError):
    """A request cannot be understood."""


class ServingError(RecsysError):
    """The server could not be started, reached or kept ready."""
