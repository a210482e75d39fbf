"""Slate policy: value formula, rules, diversity, exploration, explanations. Pure functions without I/O or state.

Beside it the rule store keeps published versions, and a running server reloads them (hot_reload).
"""
