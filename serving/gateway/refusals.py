"""A request that is not answered: one status, one sentence."""


class Refusal(Exception):
    """What the caller is told instead of an answer.

    retry_after_s: when it is worth coming again, in seconds; None where coming again does not help.
    """

    def __init__(self, status: int, sentence: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.retry_after_s = retry_after_s
