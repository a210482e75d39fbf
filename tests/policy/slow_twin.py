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
        "frequency": lambda: asked.exposure.get(f"i{row}", 0) >= 2,
    }[name]()


def is_on(rule, asked):
    return {
        "for-user": asked.profile.get("age", math.inf) < 16,
        "bury": asked.surface == "home",
        "pin-4": asked.surface == "home",
        "floor-genre": len(asked.history) < 2,
    }.get(rule["name"], True)


def naive_utility(rules, row, value, asked):
    for rule in rules:
        factor = rule.get("boost", 1 / rule.get("bury", 1))
        if factor != 1 and lies(rule["name"], row, asked):
            value = value / factor if value < 0 else value * factor
    return value if math.isfinite(value) else math.nan


def naive_showable(rules, row, asked):
    hidden = {event.item for event in asked.history} | set(asked.exclude)
    broken = any("must" in rule and not lies(rule["name"], row, asked) for rule in rules if is_on(rule, asked))
    return not broken and f"i{row}" not in hidden


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


def naive_slate(rules, trade_off, window, asked, rows, values):
    """Rows shown to one query, and the quotas that yielded: everything recomputed at every place."""
    rules = [rule for rule in rules if is_on(rule, asked)]
    utility = {
        row: naive_utility(rules, row, value, asked) for row, value in zip(rows, values, strict=True) if row != PAD
    }
    order = sorted(utility, key=lambda row: (math.isnan(utility[row]), -np.nan_to_num(utility[row]), row))
    free = [row for row in order if naive_showable(rules, row, asked)]
    pins = naive_pins(rules, free, asked)
    free = [row for row in free if row not in pins.values()]
    known = [utility[row] for row in free if not math.isnan(utility[row])]
    layout = naive_layout(asked, pins, len(free))
    quotas = [rule for rule in rules if {"cap", "floor", "frequency"} & rule.keys()]
    slate, yielded = list(layout), set()

    def counted(rule, place=None):
        return [one for one in slate[: rule["top"]] if one is not None]

    def too_many(rule, row, place):
        if place >= rule["top"]:
            return False
        if "where" in rule:
            there = sum(lies(rule["name"], one, asked) for one in counted(rule))
            return lies(rule["name"], row, asked) and there >= rule["cap"]
        counts = Counter(value for one in counted(rule) for value in column(one, rule["of"]))
        return any(counts[value] >= rule["cap"] for value in column(row, rule["of"]))

    owed = {}
    for rule in quotas:
        if "floor" in rule:
            satisfying = [row for row in free if lies(rule["name"], row, asked)]
            there = sum(lies(rule["name"], one, asked) for one in counted(rule))
            wanted = rule["floor"] - there
            attainable = min(layout[: rule["top"]].count(None), len(satisfying))
            owed[rule["name"]] = min(wanted, attainable)
            yielded |= {rule["name"]} if wanted > attainable else set()
        if "cap" in rule:
            if "where" in rule:
                over = sum(lies(rule["name"], one, asked) for one in counted(rule)) > rule["cap"]
            else:
                counts = Counter(value for one in counted(rule) for value in column(one, rule["of"]))
                over = any(count > rule["cap"] for count in counts.values())
            yielded |= {rule["name"]} if over else set()

    def left(rule, place):
        return layout[place + 1 : rule["top"]].count(None)

    def lacks(rule, row):
        return owed[rule["name"]] - lies(rule["name"], row, asked)

    def breaks(rule, row, place):
        if "frequency" in rule:
            return lies(rule["name"], row, asked)
        if "cap" in rule:
            return too_many(rule, row, place)
        return place < rule["top"] and owed[rule["name"]] > 0 and lacks(rule, row) > left(rule, place)

    def excess(row, place):
        floors = [rule for rule in quotas if "floor" in rule]
        due = [rule for rule in floors if owed[rule["name"]] > 0]
        sums = [
            sum(lacks(other, row) for other in due if other["top"] <= rule["top"]) - left(rule, place)
            for rule in due
            if place < rule["top"]
        ]
        return max([0, *sums])

    def score(row, place):
        if place >= window or trade_off == 1:
            return -free.index(row)
        if math.isnan(utility[row]):
            return -4 + naive_diversity(row, place)
        span = max(known) - min(known)
        return trade_off * ((utility[row] - min(known)) / (span or 1)) + naive_diversity(row, place)

    def naive_diversity(row, place):
        return -(1 - trade_off) * max((float(VECTORS[row] @ VECTORS[one]) for one in slate[:place]), default=0.0)

    def cost(row, place):
        return [breaks(rule, row, place) for rule in quotas], excess(row, place)

    for place, row in enumerate(layout):
        if row is None:
            remaining = [one for one in free if one not in slate]
            least = min(cost(one, place) for one in remaining)
            yielded |= {rule["name"] for rule, broken in zip(quotas, least[0], strict=True) if broken}
            allowed = [one for one in remaining if cost(one, place) == least]
            slate[place] = max(allowed, key=lambda one: score(one, place))
            for rule in quotas:
                if "floor" in rule and place < rule["top"]:
                    owed[rule["name"]] -= lies(rule["name"], slate[place], asked)
    return slate, yielded
