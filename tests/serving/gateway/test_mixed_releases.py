"""Stages of two bundles under one server: what one of them restarted with is refused by the others, never shown."""

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsys.bundle import Bundle, write_bundle
from recsys.errors import ReleaseError, ServingError
from recsys.export.releases import served_release
from recsys.pipeline import recommend
from recsys.stages import RELEASE, load_explain, load_rank, load_retrieve, load_rules
from serving.gateway.container import Dependencies
from serving.layout import DeploymentLayout
from serving.ops.bootstrap import old_export_warning
from serving.triton.async_models import TritonModels
from serving.triton.client import Client
from serving.triton.server import TritonServer

USER = "planted-user-7391"
REFUSED = "serves the release .* and got tensors of the release .*; restart the model server"


@pytest.fixture(scope="module")
def other(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same bundle with the items in another order: every row number stands for another item."""
    path = tmp_path_factory.mktemp("other") / "bundle"
    with write_bundle(path, trained.bundle.spec_fingerprint) as draft:
        shutil.copytree(trained.bundle.path, draft.path, dirs_exist_ok=True)
        (draft.path / "manifest.json").unlink()
        pl.read_ipc(trained.bundle.file("items.arrow")).reverse().write_ipc(draft.path / "items.arrow")
    return Bundle.open(path)


@pytest.fixture
def restarted(trained: Any, other: Bundle, tmp_path: Path) -> Iterator[TritonServer]:
    """A server whose bundle was replaced beneath it; a stage that is loaded again has the other one."""
    release = shutil.copytree(served_release(trained.folder / "serve"), tmp_path / "serve")
    with TritonServer(release / "models") as server:
        shutil.rmtree(release / "bundle")
        shutil.copytree(other.path, release / "bundle")
        yield server


def test_a_stage_of_another_bundle_is_refused_by_the_server(restarted: TritonServer, stranger: Any) -> None:
    with Client(restarted.grpc_url) as client:
        before = client.recommend([stranger])
        restarted._reload("explain")
        with pytest.raises(ServingError, match=REFUSED):
            client.recommend([stranger], model="recommend_explained")
        assert client.recommend([stranger]) == before
        restarted._reload("rank")
        with pytest.raises(ServingError, match=f"UNIMPLEMENTED.*rank {REFUSED}"):
            client.recommend([stranger])
        light = client.recommend([stranger], model="recommend_light")
        restarted._reload("rules")
        for model in ("recommend", "recommend_light"):
            with pytest.raises(ServingError, match=REFUSED):
                client.recommend([stranger], model=model)
        restarted._reload("retrieve")
        assert {slate.bundle for slate in before + light} != {client.recommend([stranger])[0].bundle}


@pytest.mark.parametrize(
    ("stage", "rung", "reasons"),
    [
        ("rank", "recommend_light", {"recommend:release"}),
        ("rules", "popular", {"recommend:release", "recommend_light:release"}),
        ("retrieve", "popular", {"recommend:release", "recommend_light:release"}),
    ],
)
def test_the_gateway_goes_on_with_a_lower_tier_and_says_so(
    restarted: TritonServer, parts: Dependencies, during: Any, stage: str, rung: str, reasons: set[str]
) -> None:
    restarted._reload(stage)

    async def story(door: Any) -> tuple[Any, float]:
        slate = (await door.recommend(USER, k=5)).json()
        return slate, await door.metric('recsys_rung_failures_total{reason="release",rung="recommend"}')

    slate, counted = during(replace(parts, models=TritonModels(restarted.grpc_url)), story)
    assert (slate["rung"], slate["bundle"], counted) == (rung, parts.bundle.fingerprint, 1)
    assert {f"rung:{rung}", *reasons} <= set(slate["degraded"])
    assert len(slate["items"]) == 5


def test_a_whole_server_of_another_release_gives_no_slate_until_it_is_of_this_one(
    restarted: TritonServer, trained: Any, parts: Dependencies, opened: Any
) -> None:
    """Its stages agree with each other, so only the gateway can tell."""
    release, settings = restarted.repository.parent, replace(parts.settings, probe_every_s=0.05)

    def reload() -> None:
        for stage in ("retrieve", "rank", "rules", "explain"):
            restarted._reload(stage)

    async def story() -> tuple[Any, Any, float, Any]:
        async with opened(replace(parts, models=TritonModels(restarted.grpc_url), settings=settings)) as door:
            slate, ready = (await door.recommend(USER, k=5, explain=True)).json(), await door.internal("/readyz")
            mixed = await door.metric("recsys_models_of_another_release")
            shutil.rmtree(release / "bundle")
            shutil.copytree(trained.bundle.path, release / "bundle")
            await asyncio.to_thread(reload)
            async with asyncio.timeout(60):
                while (await door.internal("/readyz")).status_code != 200:
                    await asyncio.sleep(0.05)
                while (after := (await door.recommend(USER, k=5)).json())["rung"] != "recommend":
                    await asyncio.sleep(0.05)
            assert await door.metric("recsys_models_of_another_release") == 0
        return slate, ready, mixed, after

    reload()
    slate, ready, mixed, after = asyncio.run(story())
    assert (slate["rung"], slate["bundle"]) == ("popular", parts.bundle.fingerprint)
    assert {f"{model}:release" for model in ("recommend_explained", "recommend", "recommend_light")} <= set(
        slate["degraded"]
    )
    assert (ready.status_code, mixed) == (503, 1)
    reasons = ready.json()["reasons"]
    assert set(reasons) == {"recommend", "recommend_light"}
    assert f"and this gateway {parts.bundle.fingerprint}; restart the one that is behind" in reasons["recommend"]
    assert after["bundle"] == parts.bundle.fingerprint


@pytest.mark.parametrize("exchanged", [0, 1, 2, 3])
def test_the_process_refuses_them_too(trained: Any, other: Bundle, stranger: Any, exchanged: int) -> None:
    stages = [*trained.stages, load_explain(trained.bundle)]
    assert recommend([stranger], stages)[0].items
    stages[exchanged] = (load_retrieve, load_rank, load_rules, load_explain)[exchanged](other)  # type: ignore[operator]
    with pytest.raises(ReleaseError, match=REFUSED):
        recommend([stranger, stranger], stages)


def test_one_foreign_row_of_a_batch_is_enough(trained: Any, stranger: Any) -> None:
    retrieve, rank, _ = trained.stages
    found = retrieve({"QUERY": [stranger, stranger]})
    found[RELEASE.name] = found[RELEASE.name] + np.array([[0], [1]])
    with pytest.raises(ReleaseError, match=REFUSED):
        rank(found)


def test_a_folder_of_an_earlier_version_serves_and_is_asked_to_be_exported_again(
    trained: Any, stranger: Any, tmp_path: Path
) -> None:
    """Its configurations do not know the tensor, and its folder knows no releases."""
    serve = shutil.copytree(served_release(trained.folder / "serve"), tmp_path / "serve")
    assert old_export_warning(DeploymentLayout.of(serve)) is None
    for file in (serve / "models").glob("*/config.pbtxt"):
        file.write_text(without_releases(file.read_text()))
    assert f"{serve} was exported by an earlier version" in (old_export_warning(DeploymentLayout.of(serve)) or "")
    with TritonServer(serve / "models", log=tmp_path / "log") as server, Client(server.grpc_url) as client:
        assert client.recommend([stranger]) == recommend([stranger], trained.stages)
    log = (tmp_path / "log").read_text()
    assert log.count(f"an earlier version exported {serve}") == 4
    assert "export again" in log


def without_releases(text: str) -> str:
    """A configuration in protobuf's text format without what names a release."""
    kept: list[str] = []
    block: list[str] = []
    for line in text.splitlines():
        if block or line.strip() in ("input {", "output {", "input_map {", "output_map {"):
            block.append(line)
            if line.strip() == "}":
                kept += [] if "RELEASE" in "".join(block) else block
                block = []
        else:
            kept.append(line)
    return "\n".join(kept)
