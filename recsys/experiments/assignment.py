"""Assignment of users to the arms of an experiment by a hash, without stored state."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from recsys.errors import ConfigError

TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Arms with their shares; raises ConfigError where they are no distribution.

    A user's point on [0, 1) is a hash of salt and user; arms partition the interval in their order. A user keeps the arm while
    salt and shares stay; experiments with different salts are independent of each other.
    """

    salt: str
    """unique per experiment"""
    shares: Mapping[str, float]
    """arm -> share of the users"""

    def __post_init__(self) -> None:
        if not self.salt:
            raise ConfigError("assignment.salt is empty; give each experiment a name of its own")
        for arm, share in self.shares.items():
            if not 0 <= share <= 1:
                raise ConfigError(f"assignment.shares.{arm} is {share!r}; choose a number from 0 to 1")
        if abs((total := sum(self.shares.values())) - 1) > TOLERANCE:
            raise ConfigError(f"assignment.shares add up to {total:g}; make it 1, with an arm for who takes no part")

    def arm(self, user: str) -> str:
        """Return the arm of a user."""
        point, end = self.hash_point(user), 0.0
        for arm, share in self.shares.items():
            end += share
            if point < end:
                return arm
        return [arm for arm, share in self.shares.items() if share][-1]

    def hash_point(self, user: str) -> float:
        """Return a point on [0, 1) of 53 bits; the length of the salt distinguishes "a" + "bc" from "ab" + "c"."""
        text = f"{len(self.salt)}:{self.salt}{user}".encode()
        return (int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 11) / 2**53
