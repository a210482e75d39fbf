"""The pages "How to add ...": their files are those of the repository, their tables are complete, and somebody else's encoder,
ranker, loss, source, diversity and exploration train, and their kind of rules is served, from outside of the repository.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from recsys.bundle import Bundle
from recsys.candidates.candidate_source import CandidateSource
from recsys.policy.diversity import Diversity
from recsys.policy.exploration import Exploration
from recsys.ranking.model import RankerModel
from recsys.retrieval.user_encoder import UserEncoder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
PAGES = {
    name: (ROOT / "docs" / "how-to" / f"add-a-{name}.md")
    for name in ("ranker", "user-encoder", "candidate-source", "loss", "rule-kind", "diversity", "data-set")
}
TINY = ("data.users=60", "data.events=2000", "ranking.sampling.requests=200", "ranking.epochs=1", "retrieval.epochs=1")
FILES = {
    "ranker": (["recsys/ranking/dlrm.py"], "conf/ranking/model/dlrm.yaml"),
    "user-encoder": (["recsys/retrieval/gru.py"], "conf/retrieval/user_encoder/gru.yaml"),
    "candidate-source": (["recsys/candidates/own_history.py"], None),
    "data-set": (["recsys/data/sources/steam.py"], "conf/data/steam.yaml"),
    "rule-kind": (["recsys/policy/rules/kinds/fade.py"], None),
    "diversity": (
        ["recsys/policy/diversity/mmr.py", "recsys/policy/exploration/epsilon.py"],
        "conf/policy/diversity/mmr.yaml",
    ),
}
CHOICES = [
    ("ranker", "ranking/model"),
    ("user-encoder", "retrieval/user_encoder"),
    ("loss", "retrieval/loss"),
    ("loss", "ranking/loss"),
    ("loss", "ranking/pointwise"),
    ("diversity", "policy/diversity"),
    ("diversity", "policy/exploration"),
]

NOT_OVERRIDDEN = {"kind", "kernels", "scoring"}
"""public names of the base classes that an implementation leaves as they are"""


def text_of(page):
    return (ROOT / "docs" / "how-to" / f"add-a-{page}.md").read_text(encoding="utf-8")


def block(page, language):
    (text,) = blocks(page, language)
    return text


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), re.DOTALL)


def table(page, title):
    """Cells of the table whose first column has this title, by row."""
    (rows,) = re.findall(rf"^\| {re.escape(title)} \|.*\n\|[-|]+\|\n((?:\|.*\|\n)+)", text_of(page), re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows.splitlines()]


def members(page, class_of):
    """Names in the first column of the page's table of members, against the public names of the class."""
    tables = re.findall(r"^\| member \|.*\n\|[-|]+\|\n((?:\|.*\|\n)+)", text_of(page), re.MULTILINE)
    names = [set(re.findall(r"^\| `(\w+)", rows, re.MULTILINE)) for rows in tables]
    named = {name for name in (*vars(class_of), *class_of.__annotations__) if not name.startswith("_")}
    return named - NOT_OVERRIDDEN in names


@pytest.mark.parametrize("page", FILES)
def test_the_files_of_a_page_are_those_of_the_repository(page):
    """So the contract that is held for the files is held for the page."""
    python, configuration = FILES[page]
    assert blocks(page, "python") == [(ROOT / file).read_text(encoding="utf-8") for file in python]
    if configuration:
        assert block(page, "yaml") == (ROOT / configuration).read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "group"), CHOICES)
def test_every_choice_is_in_the_table_of_its_page(page, group):
    names = [row[0].strip("| `") for row in table(page, f"`{group}`")]
    assert sorted(names) == sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize(
    ("page", "class_of"),
    [
        ("ranker", RankerModel),
        ("user-encoder", UserEncoder),
        ("candidate-source", CandidateSource),
        ("diversity", Diversity),
        ("diversity", Exploration),
    ],
)
def test_the_protocol_of_a_page_is_that_of_the_code(page, class_of):
    assert members(page, class_of)


def test_models_losses_and_sources_of_somebody_else_are_trained_and_open_again(tmp_path):
    """The examples as modules on the path, and a folder of YAML."""
    folder = tmp_path / "my_conf"
    for page, module in (
        ("ranker", "my_dlrm"),
        ("user-encoder", "my_gru"),
        ("candidate-source", "my_source"),
        ("loss", "my_loss"),
    ):
        (tmp_path / f"{module}.py").write_text(block(page, "python"), encoding="utf-8")
    diversity, exploration = blocks("diversity", "python")
    (tmp_path / "my_diversity.py").write_text(diversity, encoding="utf-8")
    (tmp_path / "my_exploration.py").write_text(exploration, encoding="utf-8")
    for choice, text in {
        "ranking/model/mine": block("ranker", "yaml").replace("recsys.ranking.dlrm.", "my_dlrm."),
        "retrieval/user_encoder/mine": block("user-encoder", "yaml").replace("recsys.retrieval.gru.", "my_gru."),
        "retrieval/loss/mine": "_target_: my_loss.HingeLoss\nmargin: 0.2\n",
        "candidates/source/mine": block("candidate-source", "yaml").replace(
            "recsys.candidates.own_history.", "my_source."
        ),
        "policy/diversity/mine": block("diversity", "yaml").replace("recsys.policy.diversity.", "my_diversity."),
        "policy/exploration/mine": "_target_: my_exploration.EpsilonGreedy\nrate: 0.1\nfirst: 0\n",
    }.items():
        (folder / choice).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{choice}.yaml").write_text(text, encoding="utf-8")
    chosen = (
        *("ranking/model=mine", "retrieval/user_encoder=mine", "retrieval/loss=mine"),
        *("policy/diversity=mine", "policy/exploration=mine"),
        *("+candidates/source@candidates.sources.mine=mine", "policy.repeat.default=always"),
    )
    done = subprocess.run(
        [sys.executable, "train.py", "--config-dir", str(folder), *chosen, "recipe=synthetic", *TINY]
        + ["refit=false", "trainer.progress=false", f"run_dir={tmp_path / 'run'}"],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    bundle = Bundle.open(tmp_path / "run" / "bundle")
    assert bundle.document("config.yaml")["ranking"]["model"]["_target_"] == "my_dlrm.DLRMRanker"
    weights = bundle.arrays("weights.safetensors")
    assert any(name.startswith("ranker.bottom") for name in weights)
    assert any("user_encoder.gru" in name for name in weights)
    assert "mine" in [one["name"] for one in bundle.document("candidates.json")["sources"]]
    policy = bundle.document("policy.yaml")
    assert policy["diversity"]["kind"] == "my_diversity:MaximalMarginalRelevance"
    assert policy["exploration"]["kind"] == "my_exploration:EpsilonGreedy"


PUBLISH = """
from recsys.policy.rules import RuleSet

rules = RuleSet.parse({"rules": [{"name": "old", "wither": 1.5, "by": "published"}]})
assert type(rules.rules[0]).__module__ == "my_fade"
assert RuleSet.parse(rules.to_document()).hash == rules.hash
"""


def test_a_kind_of_rules_of_somebody_else_is_found_where_it_is_installed(tmp_path):
    """The example under another key, as a package with an entry point, and without one."""
    source = block("rule-kind", "python").replace('"fade"', '"wither"').replace(" fade: float", " wither: float")
    (tmp_path / "my_fade.py").write_text(source.replace("self.fade ", "self.wither "), encoding="utf-8")
    command = [sys.executable, "-c", PUBLISH]
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": "/usr/bin:/bin"}
    unknown = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "has no kind; give exactly one of boost, bury" in unknown.stderr
    installed = tmp_path / "my_shop-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-shop\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[recsys.rule_kinds]\nwither = my_fade:Fade\n")
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-2_000:]


def test_a_data_set_of_somebody_else_is_loaded_by_its_yaml(tmp_path, monkeypatch):
    (tmp_path / "my_games.py").write_text(block("data-set", "python"), encoding="utf-8")
    (tmp_path / "game_purchase.dat").write_text("User_ID\tGame_ID\n7\t1\n7\t2\n8\t2\n", encoding="utf-8")
    (tmp_path / "game_play.dat").write_text("User_ID\tGame_ID\tHours\n7\t1\t12.5\n", encoding="utf-8")
    (tmp_path / "item_info.dat").write_text("Game_ID\tGame Name\n1\tChess\n2\tGo\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    node = OmegaConf.create(block("data-set", "yaml").replace("recsys.data.sources.steam", "my_games"))
    dataset = instantiate(node, folder=str(tmp_path)).load()
    assert (dataset.num_users, dataset.num_items, dataset.num_events) == (2, 2, 3)
    assert dataset.labels().sum(axis=0).tolist() == [3, 1, 1]
