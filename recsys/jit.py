"""`compiled`: numba functions with a disk cache that is keyed by the sources of all of them; `KernelType`: such functions as
arguments of others.

Numba's own cache is keyed by the file of a function alone: it would keep machine code that inlined callees from other files
which have changed since.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numba
from llvmlite.binding import get_host_cpu_name
from numba import config, njit, types
from numba.core import cgutils
from numba.experimental.function_type import _get_jit_address
from numba.extending import intrinsic

CACHE_PREFIX = "compiled-"
IMPORT_MARK = b".jit import"


def cache_folder(package: Path) -> Path:
    """Cache folder of a package's compiled functions, named by a digest of all files that define or import them."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        text = file.read_bytes()
        if IMPORT_MARK in text:
            digest.update(file.relative_to(package).as_posix().encode() + b"\0" + text + b"\0")
    return package / "__pycache__" / f"{CACHE_PREFIX}{digest.hexdigest()[:16]}"


def remove_stale_caches(kept: Path, prefix: str = CACHE_PREFIX) -> None:
    """Remove caches of other versions of the package, where the process may write."""
    with contextlib.suppress(OSError):
        for folder in kept.parent.glob(f"{prefix}*"):
            if folder != kept:
                shutil.rmtree(folder, ignore_errors=True)


config.CACHE_DIR = str(_folder := cache_folder(Path(__file__).parent))  # type: ignore[attr-defined]
remove_stale_caches(_folder)


def compiled_mark(name: str) -> Path:
    """Return the file that says that the functions of this name are compiled, for this version of numba and this CPU."""
    return Path(config.CACHE_DIR) / f"{name}-{numba.__version__}-{get_host_cpu_name()}.done"  # type: ignore[attr-defined]


compiled: Callable[..., Any] = partial(njit, cache=True)
"""decorator factory `@compiled()`; where the folder is not writable numba falls back to its own"""


class KernelType:
    """Type of a compiled function that another compiled function calls by its address.

    numba compiles a function anew for every function that is passed to it, and keeps no cache of that. Addresses are numbers,
    so the caller is compiled once for all of them, and a call costs as much as that of a known function.
    """

    def __init__(self, result: Any, *arguments: Any) -> None:
        """result, arguments: numba types"""
        self.signature = result(*arguments)
        function_type = types.FunctionType(self.signature)

        @intrinsic
        def at(_: Any, address: Any) -> Any:
            def build(context: Any, builder: Any, __: Any, arguments: Any) -> Any:
                struct = cgutils.create_struct_proxy(function_type)(context, builder)
                # a null c_addr and py_addr: the call goes by the address of the compiled function alone, without Python
                struct.c_addr = struct.py_addr = cgutils.get_null_value(cgutils.voidptr_t)
                struct.jit_addr = builder.inttoptr(arguments[0], cgutils.voidptr_t)
                return struct._getvalue()

            return function_type(types.int64), build

        self.at: Any = at
        """compiled code: the function at an address"""

    def address_of(self, function: Any) -> int:
        """Return the address of a `compiled` function in this process; it is compiled for this type first."""
        return int(_get_jit_address(function, self.signature))
