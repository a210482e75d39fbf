"""Items that a user's state bars from the slate, by the bundle's own policy of repeats."""

from collections.abc import Sequence

import numpy as np

from serving.gateway.fallbacks import RulesStage
from serving.state.contract import UserState


class Personal:
    """Reads the policy of the last stage, so that the gateway and the models agree."""

    def __init__(self, rules: RulesStage) -> None:
        policy = rules.policy
        self._repeat, self._objectives = policy.seen.repeat, tuple(policy.value.objectives)

    def barred(self, state: UserState, now: float) -> Sequence[str]:
        """Items that may not be shown at `now`; without those of the history where it alone bars them for ever."""
        if not self._repeat.possible:
            history = {event.item for event in state.history}
            return [item for item in state.seen.items if item not in history]
        barred = self._repeat.barred(*state.seen.times(self._objectives), now)
        return [state.seen.items[row] for row in np.flatnonzero(barred).tolist()]
