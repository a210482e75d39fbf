"""Epsilon-greedy exploration. Shapes: C columns of the pool."""

from recsys.jit import compiled
from recsys.policy.exploration.exploration import Exploration


@compiled()
def _sample(rate, allowed, scores, best, uniforms, stds, normals):
    return _nth(allowed, uniforms[1]) if uniforms[0] < rate else best


@compiled()
def _propensity(rate, allowed, scores, best, chosen, stds):
    return (1 - rate) * (chosen == best) + rate / allowed.sum()


@compiled()
def _nth(allowed, uniform):
    """Return an allowed column uniformly at random."""
    # a uniform just below 1 times the number can round up to the number itself
    rank = min(int(uniform * allowed.sum()), allowed.sum() - 1)
    for c in range(len(allowed)):
        if allowed[c]:
            if rank == 0:
                return c
            rank -= 1
    return -1


class EpsilonGreedy(Exploration):
    """Uniform with probability `rate`, else the best."""

    sample, propensity = _sample, _propensity
