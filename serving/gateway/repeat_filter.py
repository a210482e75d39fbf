"""Seen-item filter by the repeat policy of the bundle."""

from collections.abc import Sequence

import numpy as np

from serving.gateway.fallback_slates import RulesStage
from serving.state.protocols import UserState


class RepeatFilter:
    """Applies the repeat policy of the last stage, so that gateway and models agree."""

    def __init__(self, rules: RulesStage) -> None:
        policy = rules.policy
        self._repeat, self._objectives = policy.seen.repeat, tuple(policy.value.objectives)

    def barred(self, state: UserState, now: float) -> Sequence[str]:
        """Seen items that may not be shown at `now`; history items are omitted if the policy bars them for ever anyway."""
        if not self._repeat.possible:
            history = {event.item for event in state.history}
            return [item for item in state.seen.items if item not in history]
        barred = self._repeat.barred(*state.seen.times(self._objectives), now)
        return [state.seen.items[row] for row in np.flatnonzero(barred).tolist()]
