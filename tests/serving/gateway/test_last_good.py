"""The memory of last good slates."""

from serving.gateway.metrics import TopShare, families
from serving.gateway.stale_cache import StaleCache


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def kept(most: int = 2) -> tuple[StaleCache, Clock]:
    clock = Clock()
    return StaleCache(max_slates=most, max_bytes=10, ttl_s=60.0, clock=clock), clock


def test_a_slate_serves_its_user_and_surface_for_its_time() -> None:
    slates, clock = kept()
    slates.put(("ann", "home"), "r1", b"one")
    assert slates.get(("ann", "home"), "r1") == b"one"
    assert slates.get(("ann", "mail"), "r1") is None
    assert slates.get(("bob", "home"), "r1") is None
    clock.now = 60.0
    assert slates.get(("ann", "home"), "r1") is None
    assert len(slates) == 0


def test_other_rules_make_it_forgotten_for_good() -> None:
    slates, _ = kept()
    slates.put(("ann", "home"), "r1", b"one")
    assert slates.get(("ann", "home"), "r2") is None
    assert slates.get(("ann", "home"), "r1") is None


def test_the_least_recently_asked_for_goes_first() -> None:
    slates, _ = kept()
    for name in ("ann", "bob"):
        slates.put((name, ""), "r", name.encode())
    assert slates.get(("ann", ""), "r") == b"ann"
    slates.put(("eve", ""), "r", b"eve")
    assert [slates.get((name, ""), "r") for name in ("ann", "bob", "eve")] == [b"ann", None, b"eve"]


def test_slates_are_bounded_in_bytes_whatever_went_and_why() -> None:
    slates, clock = kept(most=9)
    for name in ("ann", "bob", "eve"):
        slates.put((name, ""), "r", b"four")
    assert [slates.get((name, ""), "r") for name in ("ann", "bob", "eve")] == [None, b"four", b"four"]
    slates.put(("bob", ""), "r", b"two")
    assert slates.num_bytes == 3 + 4
    slates.forget({"eve"})
    assert slates.num_bytes == 3
    clock.now = 60.0
    assert slates.get(("bob", ""), "r") is None
    assert slates.num_bytes == 0
    slates.put(("ann", ""), "r", b"more than all may have")
    assert (len(slates), slates.num_bytes) == (0, 0)


def test_the_share_of_the_most_shown() -> None:
    top = TopShare(window=1_000)
    assert top.share() == 0.0
    top.add(["hit"] * 101 + [str(number) for number in range(199)])
    assert top.share() == (101 + 1) / 300  # two of two hundred
    top.add(["new"] * 700)
    assert top.share() == (700 + 101 + 1) / 1_000  # 2.01 of 201, rounded up
    top.add(["late"] * 1_000)
    assert top.share() == 1.0


def test_the_share_is_read_by_a_scrape_while_slates_are_counted() -> None:
    """The page of metrics is made on a thread of its own, which gives way to the event loop at any moment."""
    top, turns = TopShare(window=1_000), list[str]()

    class Shown(str):
        """An id whose look-up is such a moment."""

        def __hash__(self) -> int:
            while turns:
                top.add([turns.pop()])
            return str.__hash__(self)

    top.add([Shown("hit"), "other"])
    turns += ["new", "newer"]
    assert top.share() == 1 / 2
    assert top.share() == 1 / 4


def test_flags_are_counted_by_family() -> None:
    flags = ["rung:popular", "state:away", "history:empty", "recommend:timeout", "items:stale", "of a caller's own"]
    assert families(flags) == {"rung", "state", "history", "items", "other"}
