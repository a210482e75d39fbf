"""Value formula: probabilities of the objectives to one utility.

Shapes: B queries of a batch, C candidates of a query, T objectives.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from recsys.errors import ConfigError
from recsys.expressions import Expression, compile_expression

SATURATED_LOGIT = 50.0
"""logit at which a float64 probability is 1; exp of more would overflow for nothing"""


class ValueFormula:
    """Numeric expression over objectives and weights, such as "watch + like_weight * like"."""

    def __init__(self, *, formula: str | None, weights: Mapping[str, float]) -> None:
        """formula: None is the target where a configuration is trained (`of_target`), else, as in older bundles, the sum of all
        objectives.
        """
        if not isinstance(weights, Mapping):
            raise ConfigError(f"value.weights is a {type(weights).__name__}; write a mapping of names to numbers")
        for name, weight in weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
                raise ConfigError(f"value.weights.{name} is {weight!r}; write a finite number")
        self.formula = formula
        self.weights = {str(name): float(weight) for name, weight in weights.items()}

    def of_target(self, target: str) -> "ValueFormula":
        """Return the formula, the target alone where there is none: by it retrieval learns, and by it systems are compared."""
        return ValueFormula(formula=target, weights=self.weights) if self.formula is None else self

    def expand_means(self, means: Mapping[str, str]) -> "ValueFormula":
        """Replace the names of means, which are sums of objectives, by their formula: a bundle knows objectives only.

        ConfigError for a weight that has the name of a mean.
        """
        if both := sorted(self.weights.keys() & means.keys()):
            raise ConfigError(f"value.weights.{both[0]} has the name of a mean; call the weight otherwise")
        if self.formula is None or not means:
            return self
        named = re.compile(rf"\b({'|'.join(map(re.escape, means))})\b(?!\s*\()")
        return ValueFormula(formula=named.sub(lambda one: f"({means[one[0]]})", self.formula), weights=self.weights)

    def compile(self, objectives: Sequence[str]) -> "CompiledValue":
        """Compile the formula for the objectives of a ranker; ConfigError names a name that does not fit."""
        if both := sorted(self.weights.keys() & set(objectives)):
            raise ConfigError(f"value.weights.{both[0]} has the name of an objective; call the weight otherwise")
        types = dict.fromkeys([*objectives, *self.weights], "number")
        formula = " + ".join(objectives) if self.formula is None else self.formula
        expression = compile_expression(formula, types, where="value.formula", result_type="number")
        if unused := sorted(self.weights.keys() - expression.names):
            raise ConfigError(f"value.weights.{unused[0]} is not used by the formula {formula!r}; remove it")
        return CompiledValue(expression=expression, weights=self.weights, objectives=tuple(objectives))


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledValue:
    """Formula compiled for one ranker."""

    expression: Expression
    weights: Mapping[str, float]
    objectives: tuple[str, ...]

    def with_weights(self, weights: Mapping[str, float]) -> "CompiledValue":
        """Return the formula with other values of its own weights; names that it does not have are left out."""
        known = {name: weight for name, weight in weights.items() if name in self.weights}
        return replace(self, weights={**self.weights, **known}) if known else self

    def utility_std(self, probabilities: np.ndarray, logit_std: np.ndarray) -> np.ndarray:
        """Return the standard deviation [B, C] of the utility, given that of the logits [B, C, T], 0 where unknown.

        Delta method with central differences over one standard deviation instead of derivatives, robust to kinks of the
        formula: the variance is the sum over objectives of ((U(logit + s) - U(logit - s)) / 2)^2. The objectives are
        treated as independent, although the errors of chained objectives correlate.
        """
        read = [column for column, name in enumerate(self.objectives) if name in self.expression.names]
        moved = np.repeat(probabilities.astype(np.float64)[None], 2 * len(read), axis=0)
        for number, column in enumerate(read):
            p = moved[2 * number, ..., column].copy()
            odds = np.exp(np.minimum(logit_std[..., column].astype(np.float64), SATURATED_LOGIT))
            moved[2 * number, ..., column] = p * odds / (1 - p + p * odds)
            moved[2 * number + 1, ..., column] = p / (p + (1 - p) * odds)
        utility = self(moved).astype(np.float64)
        return np.nan_to_num(np.sqrt(np.square((utility[::2] - utility[1::2]) / 2).sum(axis=0)), nan=0.0)

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """Compute utility [B, C] float32 from probabilities [B, C, T], NaN where the formula is not finite."""
        if probabilities.shape[-1] != len(self.objectives):
            raise ValueError(f"{probabilities.shape[-1]} probabilities for the objectives {self.objectives}")
        columns = {name: probabilities[..., column] for column, name in enumerate(self.objectives)}
        weights = {name: np.asarray(weight) for name, weight in self.weights.items()}
        with np.errstate(over="ignore"):
            utility = self.expression({**columns, **weights}).astype(np.float32)
        finite = np.where(np.isfinite(utility), utility, np.float32(np.nan))
        return np.broadcast_to(finite, probabilities.shape[:-1])
