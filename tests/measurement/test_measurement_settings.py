"""Settings of a measurement: what is read, and what is refused with the key in the sentence."""

import pytest

from recsys.data.sources.planted import DESCRIPTION
from recsys.errors import ConfigError
from recsys.measurement.settings import MeasurementSettings, Outcome

GOOD = """
actions: {kind: word, amount: number}
outcomes:
  click: {value: "kind == 'click'", window_s: 3600}
  revenue: {value: "where(kind == 'buy', amount)", credit: linear}
k: [1, 5]
by: [context.device]
"""


def read(tmp_path, text):
    (tmp_path / "settings.yaml").write_text(text)
    return MeasurementSettings.read(tmp_path / "settings.yaml")


def test_a_file_is_read(tmp_path):
    settings = read(tmp_path, GOOD)
    assert settings.outcomes["click"] == Outcome(value="kind == 'click'", window_s=3600)
    assert (settings.is_amount("click"), settings.is_amount("revenue")) == (False, True)
    assert settings.digest == read(tmp_path, GOOD).digest != read(tmp_path, GOOD.replace("5]", "6]")).digest


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("linear", "liner", "outcomes.revenue.credit is 'liner'.*did you mean 'linear'"),
        ("window_s: 3600", "window_s: 0", "outcomes.click.window_s is 0"),
        ("kind == 'click'", "sort == 1", "outcomes.click"),
        ("[1, 5]", "[0]", r"k\[0\] is 0"),
        ("[1, 5]", "3", "k is 3; write a list"),
        ("context.device", "device", "by names 'device'"),
        ("by:", "bye:", "unknown key 'bye'"),
        ("click:", "a click:", "no plain name"),
        ("actions: {kind: word, amount: number}", "", "no 'actions'"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_key(tmp_path, old, new, words):
    assert old in GOOD
    with pytest.raises(ConfigError, match=f"settings.yaml: .*{words}"):
        read(tmp_path, GOOD.replace(old, new, 1))


def test_the_objectives_of_a_description_are_outcomes():
    settings = MeasurementSettings.of_description(DESCRIPTION)
    assert list(settings.outcomes) == list(DESCRIPTION.objectives)
