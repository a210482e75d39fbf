"""Several text encoders of which validation chooses one."""

from collections.abc import Mapping

from recsys.content.text_encoder import TextVectorizer
from recsys.errors import ConfigError, check_ranges


class TextChoice:
    """Configuration of the candidates, the simplest first: it stays where no other one is better beyond chance."""

    def __init__(self, *, choices: Mapping[str, TextVectorizer], max_seconds: float) -> None:
        """
        choices: by the name that the report says, in the order of their cost
        max_seconds: an encoder that would take longer for this catalogue is left out
        """
        if len(choices) < 2:
            raise ConfigError(f"content.choices has {len(choices)} encoders, wanted two or more; name one as content")
        check_ranges("content", max_seconds=(max_seconds, 0.0, 1e9))
        self.choices, self.max_seconds = dict(choices), max_seconds
