"""Who sees which arm of an experiment: by a hash, so that nothing has to be stored and everybody agrees."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from recsys.errors import ConfigError

TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Arms with their shares; raises ConfigError where they are no distribution.

    The place of a user on [0, 1) is a hash of salt and user; arms take it up in their order. A user keeps the arm while
    salt and shares stay; experiments with different salts are independent of each other.
    """

    salt: str
    """one for each experiment"""
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
        """Of one user."""
        place, end = self.place(user), 0.0
        for arm, share in self.shares.items():
            end += share
            if place < end:
                return arm
        return [arm for arm, share in self.shares.items() if share][-1]

    def place(self, user: str) -> float:
        """On [0, 1), of 53 bits; the length of the salt keeps "a" + "bc" apart from "ab" + "c"."""
        text = f"{len(self.salt)}:{self.salt}{user}".encode()
        return (int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 11) / 2**53
