"""The rungs that need no model server: what they show, and that `must` rules hold on them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from recsys.items.store import Edit, ItemStore
from recsys.policy.rules import RuleSet
from recsys.stages import load_live_retrieve, load_live_rules, load_rules, read_catalogue, read_schema
from serving.gateway.container import Dependencies
from serving.state.protocols import UserState

USER = "planted-user-7391"


def test_without_models_the_popular_list_answers_and_says_so(parts: Dependencies, during: Any) -> None:
    async def story(door: Any) -> Any:
        answer = await door.recommend(USER, k=7)
        return answer, await door.metric('recsys_rung_answers_total{rung="popular"}')

    answer, counted = during(parts, story)
    slate = answer.json()
    assert (answer.status_code, slate["rung"], slate["user"], len(slate["items"])) == (200, "popular", USER, 7)
    assert {"rung:popular", "recommend:failed", "recommend_light:failed", "last_good:nothing"} <= set(slate["degraded"])
    assert {source for place in slate["items"] for source in place["sources"]} == {"popular"}
    assert counted == 1


def test_must_rules_hold_on_the_popular_list(parts: Dependencies, banned: Any, during: Any) -> None:
    async def first(door: Any) -> list[str]:
        return [place["item"] for place in (await door.recommend(USER, k=10)).json()["items"]]

    shown = during(parts, first)
    later = during(banned(parts, *shown[:5]), first)
    assert len(later) == 10
    assert not set(later) & set(shown[:5])


def test_what_a_user_met_or_excludes_is_not_on_the_popular_list(parts: Dependencies, during: Any, trained: Any) -> None:
    query = trained.replay.queries([trained.dataset.num_events - 1], k=10)[0]
    parts.states.known[USER] = UserState(history=query.history)  # type: ignore[attr-defined]

    async def story(door: Any) -> tuple[set[str], set[str]]:
        first = {place["item"] for place in (await door.recommend(USER, k=10)).json()["items"]}
        excluded = (await door.recommend(USER, k=10, exclude=sorted(first))).json()
        return first, {place["item"] for place in excluded["items"]}

    first, second = during(parts, story)
    assert not first & {event.item for event in query.history}
    assert not first & second


def test_the_last_good_slate_comes_again(parts: Dependencies, good_slate: Any, during: Any, trained: Any) -> None:
    parts, slate, well = good_slate(parts)

    async def story(door: Any) -> list[dict[str, Any]]:
        first = (await door.recommend(USER, k=5)).json()
        well["now"] = False
        return [first, (await door.recommend(USER, k=5)).json(), (await door.recommend("another", k=5)).json()]

    first, again, other = during(parts, story)
    assert [one["rung"] for one in (first, again, other)] == ["recommend", "last_good", "popular"]
    assert {place["item"] for place in again["items"]} == {place["item"] for place in slate["items"]}
    assert {"rung:last_good", "recommend:timeout"} <= set(again["degraded"])
    shown = {place["item"]: place for place in again["items"]}
    for place in slate["items"]:
        assert set(shown[place["item"]]["sources"]) == set(place["sources"])
        assert shown[place["item"]]["probabilities"] == pytest.approx(place["probabilities"], rel=1e-5)


def test_other_rules_make_the_last_good_slate_forgotten(
    parts: Dependencies, good_slate: Any, banned: Any, during: Any, trained: Any
) -> None:
    """Rules change under the running gateway: what they ban is on no slate from then on."""
    parts, slate, well = good_slate(parts)
    first, second = parts.rules, banned(parts, slate["items"][0]["item"]).rules

    class Changing:
        now, lost = first, None

        @property
        def policy(self) -> Any:
            return self.now.policy

        def __call__(self, tensors: Any) -> Any:
            return self.now(tensors)

    changing = Changing()

    async def story(door: Any) -> dict[str, Any]:
        await door.recommend(USER, k=5)
        well["now"], changing.now = False, second
        return (await door.recommend(USER, k=5)).json()

    answer = during(replace(parts, rules=changing), story)
    assert (answer["rung"], answer["rules"]) == ("popular", second.policy.rules.hash)
    assert slate["items"][0]["item"] not in {place["item"] for place in answer["items"]}


def test_a_rung_that_cannot_apply_rules_does_not_answer(parts: Dependencies, during: Any) -> None:
    class Broken:
        policy, lost = parts.rules.policy, None
        warm = True

        def __call__(self, tensors: Any) -> Any:
            if self.warm:
                return parts.rules(tensors)
            raise RuntimeError("broken")

    broken = Broken()

    async def story(door: Any) -> httpx.Response:
        broken.warm = False
        return await door.recommend(USER)

    answer = during(replace(parts, rules=broken), story)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert set(answer.json()) == {"error", "request_id"}


def test_neighbours_are_those_of_the_vectors_by_the_rules(
    parts: Dependencies, banned: Any, during: Any, trained: Any, items: Any
) -> None:
    vectors = trained.bundle.arrays("item_vectors.safetensors")["vectors"]
    cosines = vectors @ vectors[3] / np.maximum(np.linalg.norm(vectors, axis=1) * np.linalg.norm(vectors[3]), 1e-12)
    nearest = [items[row] for row in np.argsort(-cosines) if row != 3]

    async def story(door: Any) -> list[httpx.Response]:
        paths = (f"{items[3]}/similar?k=5", f"{items[3]}/similar?k=0", f"{items[3]}/similar?n=5", "nothing/similar")
        return [await door.client.get(f"/v1/items/{path}") for path in paths]

    plain = replace(parts, rules=load_rules(parts.bundle, rules=RuleSet.parse({"rules": []})))
    found, *refused = during(plain, story)
    assert found.json()["item"] == items[3]
    assert found.json()["items"][0]["item"] == nearest[0]
    assert [one.status_code for one in refused] == [400, 400, 404]
    hidden = during(banned(parts, *nearest[:2]), story)[0].json()
    assert len(hidden["items"]) == 5
    assert not {place["item"] for place in hidden["items"]} & {items[3], *nearest[:2]}


def test_items_that_came_since_the_training_have_neighbours_and_are_some(
    parts: Dependencies, during: Any, tmp_path: Path
) -> None:
    """Two of the same content, of which no event is known: each is the other's nearest."""
    catalogue, schema = read_catalogue(parts.bundle), read_schema(parts.bundle)
    content = {name: value for name, value in catalogue.row(3, named=True).items() if name in schema.kinds}
    edits = [Edit(item=item, columns=content, withdrawn=None) for item in ("brand new", "its twin")]
    ItemStore(tmp_path).put(schema, edits, who="ann")
    live = replace(
        parts,
        retrieve=load_live_retrieve(parts.bundle, tmp_path),
        rules=load_live_rules(parts.bundle, None, tmp_path),
    )

    async def story(door: Any) -> list[list[str]]:
        asked = [await door.client.get(f"/v1/items/{item}/similar?k=5") for item in ("brand new", "its twin")]
        return [[place["item"] for place in answer.json()["items"]] for answer in asked]

    of_the_new, of_the_twin = during(live, story)
    assert (len(of_the_new), of_the_new[0]) == (5, "its twin")
    assert (len(of_the_twin), of_the_twin[0]) == (5, "brand new")
