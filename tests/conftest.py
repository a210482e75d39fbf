"""What the system tests share: one trained world, exported, served; and a way to train others in this process."""

import gc
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from recsys.cli.imports import put_off_collections, resume_collections

if gc.isenabled():  # until the tests are collected: each worker imports all that there is
    put_off_collections()

import torch

if not torch.cuda.is_available():  # kernels are interpreted then, which is settled as they are imported
    os.environ["TRITON_INTERPRET"] = "1"
os.environ["RECSYS_CACHE"] = ""  # a test trains what it is about; those of the cache name a folder

from hydra import compose, initialize_config_dir
from hypothesis import settings
from omegaconf import DictConfig, OmegaConf

from recsys.bundle import Bundle
from recsys.cli.experiment import build
from recsys.contracts import Query
from recsys.data.dataset import DESCRIPTION_FILE, Dataset
from recsys.data.sources.tables import Tables
from recsys.data.splits import whole
from recsys.encryption import ENCRYPTION_KEY, EncryptionKey, write_encryption_key
from recsys.evaluation.report import Report
from recsys.export.repository import write_repository
from recsys.replay.replay import Replay
from recsys.stages import Stages, load_stages
from recsys.stores.atomic_files import locked
from serving.triton.client import Client
from serving.triton.server import TritonServer

settings.register_profile("house", deadline=None)
settings.load_profile("house")

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    "recipe=synthetic",
    "data.users=120",
    "data.items=80",
    "data.events=4000",
    "retrieval.dim=16",
    "retrieval.epochs=1",
    "ranking.epochs=1",
    "ranking.sampling.requests_per_user=2",
    "ranking.sampling.dense_candidates=200",
    "ranking.sizes.dim=8",
    "ranking.watch=likelihood",  # by ndcg@10 a ranker of one epoch may keep the order of retrieval
    "trainer.progress=false",
    "trainer.threads=1",
    "refit=false",
)
SMALL = (*TINY, "data.users=240", "data.items=160", "data.events=9000", "retrieval.epochs=3", "ranking.epochs=2")
RULES = [
    {"name": "no-crime", "must": "category != 'crime' or missing(category)"},
    {"name": "push-the-cheap", "boost": 1.3, "where": "price < 10"},
    {"name": "two-of-a-category", "cap": 2, "of": "category", "top": 5},
]

SLOW_FIXTURES = {"trained", "run"}
"""of tests that train a cascade or read a trained one"""

FIRST = (
    "test_stack",
    "test_entry_points",
    "test_self_healing",
    "test_notebooks",
    "test_forgetting_stack",
    "test_ranker_models",
    "test_encrypted_stack",
    "test_sequence_recipe",
    "test_docs_blocks",
    "test_leakage",
    "test_items_live",
    "test_recipes_served",
)
"""the longest files, so that none is left over for one worker at the end; those that read the trained world and those that do
not in turn, so that no worker waits for another. The second one begins with refusals: while they run, the first worker compiles
the kernels for both."""
Compose = Callable[..., DictConfig]
Run = Callable[..., tuple[Report, Bundle]]


UseKey = Callable[[str | None], EncryptionKey | None]


@pytest.fixture
def use_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UseKey:
    """Configure the encryption key of a name, a new one for a new name, none for None; return it."""

    def use(name: str | None) -> EncryptionKey | None:
        if name is None:
            monkeypatch.delenv(ENCRYPTION_KEY, raising=False)
            return None
        file = tmp_path / name
        monkeypatch.setenv(ENCRYPTION_KEY, str(file))
        return EncryptionKey.read(file) if file.exists() else write_encryption_key(file)

    return use


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """Restore the umask, which commands of serving lower for their process."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One finished run."""

    folder: Path
    """the run directory; the export lies in `serve`"""
    bundle: Bundle
    stages: Stages
    dataset: Dataset
    replay: Replay


def pytest_collection_finish() -> None:
    resume_collections()


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Mark tests that train, and those of benchmarks: `make test-fast` leaves them out."""
    for item in items:
        if SLOW_FIXTURES & set(item.fixturenames) or item.path.parent.name == "benchmarks":
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Overrides of the smallest world that still trains."""
    return TINY


@pytest.fixture(scope="session")
def composed() -> Compose:
    """The configuration that `python train.py <overrides>` would run with."""

    def composed(folder: Path, *overrides: str) -> DictConfig:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose("train", overrides=[*overrides, f"run_dir={folder}"])

    return composed


@pytest.fixture(scope="session")
def run() -> Run:
    """What train.py does with a configuration, in this process; the libraries' own warnings are not ours to judge."""

    def run(config: DictConfig) -> tuple[Report, Bundle]:
        resolved: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return build(config).run(Path(config.run_dir), resolved, echo=lambda _: None)

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, composed: Compose, run: Run) -> Trained:
    """The synthetic world, trained with rules and exported for the CPU."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with locked(shared / "trained_once", timeout_s=3_600.0):
        if not (kept := shared / "trained_once" / "run").is_dir():
            train_once(kept, composed, run)
    shutil.copytree(kept, folder, symlinks=True)
    bundle = Bundle.open(folder / "bundle")
    dataset = Tables(description=str(folder / "data" / DESCRIPTION_FILE)).load()
    return Trained(
        folder=folder,
        bundle=bundle,
        stages=load_stages(bundle),
        dataset=dataset,
        replay=Replay(dataset, whole(dataset)),
    )


def train_once(folder: Path, composed: Compose, run: Run) -> None:
    """Each worker copies this run: most of its time goes into the export of the graphs, however small the world."""
    draft = folder.with_name("draft")
    shutil.rmtree(draft, ignore_errors=True)
    config = composed(draft, *SMALL)
    config.rules.document.rules = RULES
    _, bundle = run(config)
    write_repository(bundle, draft / "serve", "cpu")
    draft.rename(folder)


@pytest.fixture(scope="session")
def stranger(trained: Trained) -> Query:
    """Somebody of whom nothing is known."""
    return Query(user="nobody", now=float(trained.replay.timestamps.max()), k=10, request_id="a stranger asks")


@pytest.fixture(scope="session")
def server(trained: Trained) -> Iterator[TritonServer]:
    with TritonServer(trained.folder / "serve" / "current" / "models") as server:
        yield server


@pytest.fixture(scope="session")
def client(server: TritonServer) -> Iterator[Client]:
    with Client(server.grpc_url) as client:
        yield client
