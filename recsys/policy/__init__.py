"""From probabilities to the slate: value formula, rules, diversity, explanations. Pure: no I/O, no state.

Beside it the rule store, which keeps the published versions and lets a running server follow them.
"""
