"""Mean action probabilities of a policy, estimated from its own log.

Shapes: R rounds, P positions, A actions.
"""

import numpy as np

from recsys.data.bandit import BanditLog


def shares(log: BanditLog) -> np.ndarray:
    """Return the share of each action at each position, [P, A], the mean policy over the time of its log.

    It is computed from shown actions and no reward. The share of an action is an unbiased estimate of its mean
    probability. The mean of its logged propensities is not: an action is logged when it was likely, so that mean is
    E[p^2] / E[p], and over the actions it adds up to more than 1 as soon as the policy learns along its log. A position
    without rounds is uniform.
    """
    counts = np.zeros((log.num_positions, log.num_actions))
    np.add.at(counts, (log.positions, log.actions), 1.0)
    counts[counts.sum(axis=1) == 0] = 1.0
    return counts / counts.sum(axis=1, keepdims=True)
