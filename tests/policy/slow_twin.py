"""A world of sixteen items, rules of every kind over it, and the policy as a slow twin in plain Python."""

import math
from collections import Counter

import numpy as np

from recsys.contracts import PAD

OBJECTIVES, SOURCES = ("watch", "like"), ("towers", "linear")
TYPES = {"year": "number", "genre": "category", "genres": "categories"}
GENRES = ["a", "b", "c", "d"]
N, D = 16, 4


def objects(values):
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


RNG = np.random.default_rng(0)
CATALOGUE = {
    "item": objects([f"i{row}" for row in range(N)]),
    "year": RNG.integers(1980, 2000, N).astype(float),
    "genre": objects([GENRES[RNG.integers(3)] if row % 7 else None for row in range(N)]),
    "genres": objects([tuple(sorted(set(RNG.choice(GENRES, RNG.integers(0, 3)).tolist()))) for row in range(N)]),
}
VECTORS = np.eye(D, dtype=np.float32)[RNG.integers(0, D, N)]
MUST = {"name": "must", "must": "year >= 1984"}
FOR_USER = {"name": "for-user", "when": "user.age < 16", "must": "year >= user.since and genre != 'c'"}
BOOST = {"name": "boost", "boost": 2, "where": "year >= 1995"}
BURY = {"name": "bury", "bury": 4, "where": "contains(genres, context.tired_of)", "when": "surface == 'home'"}
PINS = [
    {"name": "pin-0", "pin": 0, "item": "i3"},
    {"name": "pin-4", "pin": 4, "item": "i5", "when": "surface == 'home'"},
    {"name": "pin-2", "pin": 2, "item": "i8"},
    {"name": "pin-genre", "pin": 0, "where": "genre == 'b'"},
]
CAPS = [
    {"name": "cap-genre", "cap": 1, "of": "genre", "top": 4},
    {"name": "cap-genres", "cap": 2, "of": "genres", "top": 6},
    {"name": "cap-old", "cap": 1, "where": "year < 1990", "top": 5},
]
FLOORS = [
    {"name": "floor-old", "floor": 2, "where": "year < 1990", "top": 4},
    {"name": "floor-genre", "floor": 1, "where": "contains(genres, 'd')", "top": 3, "when": "num_events < 2"},
]
FREQUENCY = {"name": "frequency", "frequency": 2}
RULES = [MUST, FOR_USER, BOOST, BURY, *PINS, *CAPS, *FLOORS, FREQUENCY]
REQUEST_TYPES = {"user.age": "number", "user.since": "number", "context.tired_of": "category"}


def column(row, name):
    value = CATALOGUE[name][row]
    return set() if value is None else {value} if name == "genre" else set(value)


def lies(name, row, asked):
    """The condition of the rule of this name, and whether it holds now, written out by hand."""
    year, genre, genres = (CATALOGUE[one][row] for one in ("year", "genre", "genres"))
    return {
        "must": lambda: year >= 1984,
        "for-user": lambda: year >= asked.profile.get("since", math.inf) and genre not in ("c", None),
        "boost": lambda: year >= 1995,
        "bury": lambda: asked.context.get("tired_of") in genres,
        "pin-genre": lambda: genre == "b",
        "cap-old": lambda: year < 1990,
        "floor-old": lambda: year < 1990,
        "floor-genre": lambda: "d" in genres,
        "frequency": lambda: asked.impressions.get(f"i{row}", 0) >= 2,
    }[name]()


def is_on(rule, asked):
    return {
        "for-user": asked.profile.get("age", math.inf) < 16,
        "bury": asked.surface == "home",
        "pin-4": asked.surface == "home",
        "floor-genre": len(asked.history) < 2,
    }.get(rule["name"], True)


POPULARITY = np.arange(N)[::-1] / (N * (N - 1) / 2)
"""[N] share of known events"""


def naive_discount(dial, row, asked):
    """dial: (discount, of)"""
    discount, of = dial
    share = POPULARITY[row] if of == "events" else asked.exposure.get(f"item=i{row}", 0)
    return max((1 + N * share) ** -discount, 0.1)


def naive_utility(rules, dial, row, value, asked):
    discount = naive_discount(dial, row, asked)
    value = value / discount if value < 0 else value * discount
    for rule in rules:
        factor = rule.get("boost", 1 / rule.get("bury", 1))
        if factor != 1 and lies(rule["name"], row, asked):
            value = value / factor if value < 0 else value * factor
    return value if math.isfinite(value) else math.nan


def naive_showable(rules, row, asked):
    hidden = {event.item for event in asked.history} | set(asked.exclude) | set(asked.hidden.get("item", ()))
    hides = any(
        column(row, name) & {value.strip() for value in asked.hidden.get(name, ())} for name in ("genre", "genres")
    )
    broken = any("must" in rule and not lies(rule["name"], row, asked) for rule in rules if is_on(rule, asked))
    return not broken and not hides and f"i{row}" not in hidden


def naive_pins(rules, free, asked):
    """place -> row, the earlier pin first; a place that is taken sends a pin to the next one."""
    held = {}
    for rule in (rule for rule in rules if "pin" in rule and rule["pin"] < asked.k):
        if "item" in rule:
            row = int(rule["item"][1:])
            fits = [row] if naive_showable(rules, row, asked) else []
        else:
            fits = [row for row in free if lies(rule["name"], row, asked)]
        fits = [row for row in fits if row not in held.values()]
        places = [place for place in range(rule["pin"], asked.k) if place not in held]
        if fits and places:
            held[places[0]] = fits[0]
    return held


def naive_layout(asked, pins, num_free):
    """Place by place a pinned row or None for a free place, with no gap even when items run out."""
    layout, waiting = [], sorted(pins.items())
    while len(layout) < asked.k:
        if waiting and (waiting[0][0] <= len(layout) or not num_free):
            layout.append(waiting.pop(0)[1])
        elif num_free:
            num_free -= 1
            layout.append(None)
        else:
            break
    return layout


def naive_slate(rules, dial, trade_off, window, asked, rows, values):
    """Rows shown to one query, the quotas that yielded, and whether a floor lost more than it had to."""
    page = NaivePage([rule for rule in rules if is_on(rule, asked)], dial, trade_off, window, asked, rows, values)
    page.fill()
    return page.slate, page.yielded, page.lost


class NaivePage:
    """One page while it is filled: everything recomputed at every place."""

    def __init__(self, rules, dial, trade_off, window, asked, rows, values):
        self.trade_off, self.window, self.asked = trade_off, window, asked
        offered = {row: value for row, value in zip(rows, values, strict=True) if row != PAD}
        self.utility = utility = {row: naive_utility(rules, dial, row, value, asked) for row, value in offered.items()}
        order = sorted(utility, key=lambda row: (math.isnan(utility[row]), -np.nan_to_num(utility[row]), row))
        free = [row for row in order if naive_showable(rules, row, asked)]
        pins = naive_pins(rules, free, asked)
        self.free = [row for row in free if row not in pins.values()]
        self.known = [utility[row] for row in self.free if not math.isnan(utility[row])]
        self.layout = naive_layout(asked, pins, len(self.free))
        self.slate = list(self.layout)
        self.quotas = [rule for rule in rules if {"cap", "floor", "frequency"} & rule.keys()]
        self.floors = [rule for rule in self.quotas if "floor" in rule]
        self.yielded = {rule["name"] for rule in self.quotas if "cap" in rule and self.overfull(rule)}
        self.owed = {rule["name"]: self.attainable(rule) for rule in self.floors}
        self.lost = False

    def fill(self):
        for place, row in enumerate(self.layout):
            if row is None:
                self.choose(place)

    def choose(self, place):
        remaining = [row for row in self.free if row not in self.slate]
        least = min(self.cost(row, place) for row in remaining)
        broken = {rule["name"] for rule, breaks in zip(self.quotas, least[0], strict=True) if breaks}
        self.lost |= bool(broken & self.yielded & {rule["name"] for rule in self.floors})
        self.yielded |= broken
        allowed = [row for row in remaining if self.cost(row, place) == least]
        self.slate[place] = max(allowed, key=lambda row: self.score(row, place))
        for rule in self.floors:
            if place < rule["top"]:
                self.owed[rule["name"]] -= self.lies(rule, self.slate[place])

    def cost(self, row, place):
        return [self.breaks(rule, row, place) for rule in self.quotas], self.excess(row, place)

    def lies(self, rule, row):
        return lies(rule["name"], row, self.asked)

    def counted(self, rule):
        """How many of each value, or of those that satisfy the condition, stand among the first."""
        first = [row for row in self.slate[: rule["top"]] if row is not None]
        if "where" in rule:
            return Counter({True: sum(self.lies(rule, row) for row in first)})
        return Counter(value for row in first for value in column(row, rule["of"]))

    def overfull(self, rule):
        return any(count > rule["cap"] for count in self.counted(rule).values())

    def attainable(self, rule):
        """Items that a floor still lacks, as far as they can be had; what cannot yields at once."""
        wanted = rule["floor"] - self.counted(rule)[True]
        there = sum(self.lies(rule, row) for row in self.free)
        most = min(self.layout[: rule["top"]].count(None), there)
        self.yielded |= {rule["name"]} if wanted > most else set()
        return min(wanted, most)

    def breaks(self, rule, row, place):
        if "frequency" in rule:
            return self.lies(rule, row)
        if place >= rule["top"]:
            return False
        if "floor" in rule:
            return self.owed[rule["name"]] > 0 and self.lacks(rule, row) > self.left(rule, place)
        groups = {True} if "where" in rule and self.lies(rule, row) else set()
        counts = self.counted(rule)
        return any(counts[group] >= rule["cap"] for group in (groups if "where" in rule else column(row, rule["of"])))

    def left(self, rule, place):
        return self.layout[place + 1 : rule["top"]].count(None)

    def lacks(self, rule, row):
        return self.owed[rule["name"]] - self.lies(rule, row)

    def excess(self, row, place):
        """Places that floors, with those inside of them, would lack together."""
        due = [rule for rule in self.floors if self.owed[rule["name"]] > 0]
        lacking = [
            sum(self.lacks(other, row) for other in due if other["top"] <= rule["top"]) - self.left(rule, place)
            for rule in due
            if place < rule["top"]
        ]
        return max([0, *lacking])

    def score(self, row, place):
        if place >= self.window or self.trade_off == 1:
            return -self.free.index(row)
        above = [float(VECTORS[row] @ VECTORS[one]) for one in self.slate[:place]]
        diversity = -(1 - self.trade_off) * max(above, default=0.0)
        if math.isnan(self.utility[row]):
            return -4 + diversity
        span = max(self.known) - min(self.known)
        return self.trade_off * ((self.utility[row] - min(self.known)) / (span or 1)) + diversity
