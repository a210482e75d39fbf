"""From the probabilities of the objectives to one utility.

Shapes: B queries of a batch, C candidates of a query, T objectives.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.errors import ConfigError
from recsys.expressions import Expression, compile_expression

CERTAIN = 50.0
"""a logit that is as large makes a probability of 1"""


class ValueFormula:
    """A number expression over objectives and weights, such as "watch + like_weight * like"."""

    def __init__(self, *, formula: str | None, weights: Mapping[str, float]) -> None:
        """formula: None stands for the sum of all objectives."""
        if not isinstance(weights, Mapping):
            raise ConfigError(f"value.weights is a {type(weights).__name__}; write a mapping of names to numbers")
        for name, weight in weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
                raise ConfigError(f"value.weights.{name} is {weight!r}; write a finite number")
        self.formula = formula
        self.weights = {str(name): float(weight) for name, weight in weights.items()}

    def spelled(self, means: Mapping[str, str]) -> "ValueFormula":
        """Reading objectives only, means being sums of them: what a bundle keeps. ConfigError for a weight of that name."""
        if both := sorted(self.weights.keys() & means.keys()):
            raise ConfigError(f"value.weights.{both[0]} has the name of a mean; call the weight otherwise")
        if self.formula is None or not means:
            return self
        named = re.compile(rf"\b({'|'.join(map(re.escape, means))})\b(?!\s*\()")
        return ValueFormula(formula=named.sub(lambda one: f"({means[one[0]]})", self.formula), weights=self.weights)

    def compile(self, objectives: Sequence[str]) -> "CompiledValue":
        """Check the formula against the objectives of a ranker; ConfigError names what does not fit."""
        if both := sorted(self.weights.keys() & set(objectives)):
            raise ConfigError(f"value.weights.{both[0]} has the name of an objective; call the weight otherwise")
        types = dict.fromkeys([*objectives, *self.weights], "number")
        formula = " + ".join(objectives) if self.formula is None else self.formula
        expression = compile_expression(formula, types, where="value.formula", wanted="number")
        if unused := sorted(self.weights.keys() - expression.names):
            raise ConfigError(f"value.weights.{unused[0]} is not used by the formula {formula!r}; remove it")
        return CompiledValue(expression=expression, weights=self.weights, objectives=tuple(objectives))


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledValue:
    """The formula of one ranker."""

    expression: Expression
    weights: Mapping[str, float]
    objectives: tuple[str, ...]

    def spread(self, probabilities: np.ndarray, deviations: np.ndarray) -> np.ndarray:
        """Standard deviation [B, C] of the utility, the logits of probabilities [B, C, T] being as unsure as deviations
        [B, C, T] say, each by itself: that objectives which follow each other err together does not come this far.

        The delta method, by the difference over one deviation to both sides instead of the derivative, so that kinks of
        the formula do not surprise; sum over the objectives of ((U(logit + s) - U(logit - s)) / 2)^2. 0 where unknown.
        """
        read = [place for place, name in enumerate(self.objectives) if name in self.expression.names]
        moved = np.repeat(probabilities.astype(np.float64)[None], 2 * len(read), axis=0)
        for number, place in enumerate(read):
            p = moved[2 * number, ..., place].copy()
            odds = np.exp(np.minimum(deviations[..., place].astype(np.float64), CERTAIN))
            moved[2 * number, ..., place] = p * odds / (1 - p + p * odds)
            moved[2 * number + 1, ..., place] = p / (p + (1 - p) * odds)
        utility = self(moved).astype(np.float64)
        return np.nan_to_num(np.sqrt(np.square((utility[::2] - utility[1::2]) / 2).sum(axis=0)), nan=0.0)

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """probabilities [B, C, T] -> utility [B, C] float32, NaN where the formula has no finite value."""
        if probabilities.shape[-1] != len(self.objectives):
            raise ValueError(f"{probabilities.shape[-1]} probabilities for the objectives {self.objectives}")
        columns = {name: probabilities[..., place] for place, name in enumerate(self.objectives)}
        weights = {name: np.asarray(weight) for name, weight in self.weights.items()}
        with np.errstate(over="ignore"):
            utility = self.expression({**columns, **weights}).astype(np.float32)
        finite = np.where(np.isfinite(utility), utility, np.float32(np.nan))
        return np.broadcast_to(finite, probabilities.shape[:-1])
