"""Writing of catalogue edits."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from recsys.errors import DataError, QueryError, ServingError
from recsys.items.schema import ItemSchema
from recsys.items.store import Edit, ItemStore, Position

AUTHOR = "gateway"


class ItemStoreWriter:
    """Writes catalogue edits of the gateway to the item store. known: ids of the bundle's catalogue."""

    def __init__(self, store: ItemStore, schema: ItemSchema, known: Collection[str]) -> None:
        self._store, self._schema, self._known, self._position = store, schema, set(known), Position()
        self._lock = asyncio.Lock()

    async def put(self, item: str, columns: Mapping[str, Any], *, withdrawn: bool | None, create: bool) -> bool | None:
        """Store the edit; return whether the item is new, None for an unknown item without `create`.

        QueryError for an edit that does not fit the catalogue, ServingError on a disk error.
        """
        edit = Edit(item=item, columns=columns, withdrawn=withdrawn)
        try:
            async with self._lock:
                return await asyncio.to_thread(self._put, edit, create)
        except DataError as error:
            raise QueryError(str(error)) from None
        except OSError as error:
            raise ServingError(f"{self._store.folder} cannot be written ({error.strerror})") from None

    def _put(self, edit: Edit, create: bool) -> bool | None:
        changes, self._position = self._store.read(self._position)
        self._known.update(change.item for change in changes)
        new = edit.item not in self._known
        if new and not create:
            return None
        self._store.put(self._schema, [edit], who=AUTHOR)
        return new
