"""From probabilities to the slate: value formula, rules, diversity, explanations. Pure: no I/O, no state."""
