"""Classes of other packages, which a bundle names by their import path."""

import importlib


def class_at(path: str, of: type) -> type:
    """Return the class at module:Class; ImportError where it cannot be had, TypeError where it is no subclass of `of`."""
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (AttributeError, ValueError) as error:
        raise ImportError(str(error)) from None
    if not (isinstance(found, type) and issubclass(found, of)):
        raise TypeError(f"{path} is no {of.__name__}")
    return found
