"""Caller of a request, and the ids that it may name: those of its tenant, or those of no tenant."""

import re
from dataclasses import dataclass

from recsys.errors import QueryError

TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
TENANT_RULE = "1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', the first a letter or a digit"
_PREFIX = re.compile(rf"tenant:({TENANT.pattern}):")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Caller of a request. tenant: None for one that serves users of no tenant."""

    name: str = ""
    """in the request log; "" where no key is needed"""
    tenant: str | None = None

    def scoped(self, id: str) -> str:
        """Return an id of a user or a request as it is stored: `tenant:<tenant>:<id>`, or the id itself without a tenant.

        Neither two tenants nor a tenant and a caller without one reach the same stored id: a tenant has no colon, and an
        id of that form is refused, with QueryError, from a caller without a tenant. Normalising a stored id changes
        nothing, so that a training on the log sees the ids that serving looks up.
        """
        if self.tenant is not None:
            return f"tenant:{self.tenant}:{id}"
        if found := _PREFIX.match(id):
            raise QueryError(
                f"the id begins with {found[0]!r}, which is kept for the users of a tenant; send an id of another form, or "
                "use a key of that tenant"
            )
        return id

    def stored_or_scoped(self, id: str) -> str:
        """Return an id of a user as it is stored; a caller without a tenant may name a user of any tenant by the stored id.

        For routes of the scope admin.
        """
        return id if self.tenant is None else self.scoped(id)
