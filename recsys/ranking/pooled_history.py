"""The default ranker without attention: the history is its mean (Covington et al. 2016), the same for all candidates."""

from recsys.ranking.crossed import HistoryPooling
from recsys.ranking.multi_objective import MultiObjectiveRanker


class PooledHistoryRanker(MultiObjectiveRanker):
    """Experts and gates of the default on the mean event and the crossed features."""

    pooling = HistoryPooling
