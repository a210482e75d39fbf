"""The pages "How to add ...": their files are those of the repository, their tables are complete, and somebody else's encoder,
ranker, loss and source train, outside of the repository, from a folder of their own.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.bundle import Bundle
from recsys.candidates.interfaces import CandidateSource
from recsys.ranking.model import RankerModel
from recsys.retrieval.user_encoder import UserEncoder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
PAGES = {
    name: (ROOT / "docs" / "how-to" / f"add-a-{name}.md")
    for name in ("ranker", "user-encoder", "candidate-source", "loss")
}
TINY = ("data.users=60", "data.events=2000", "ranking.requests=200", "ranking.epochs=1", "retrieval.epochs=1")
FILES = {
    "ranker": ("recsys/ranking/dlrm.py", "conf/ranking/model/dlrm.yaml"),
    "user-encoder": ("recsys/retrieval/gru.py", "conf/retrieval/user_encoder/gru.yaml"),
    "candidate-source": ("recsys/candidates/own_history.py", None),
}
CHOICES = [
    ("ranker", "ranking/model"),
    ("user-encoder", "retrieval/user_encoder"),
    ("loss", "retrieval/loss"),
    ("loss", "ranking/loss"),
]


def text_of(page):
    return (ROOT / "docs" / "how-to" / f"add-a-{page}.md").read_text(encoding="utf-8")


def block(page, language):
    (text,) = re.findall(rf"```{language}\n(.*?)```", text_of(page), re.DOTALL)
    return text


def table(page, title):
    """Cells of the table whose first column has this title, by row."""
    (rows,) = re.findall(rf"^\| {re.escape(title)} \|.*\n\|[-|]+\|\n((?:\|.*\|\n)+)", text_of(page), re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows.splitlines()]


def members(page, class_of):
    """Names in the first column of the page's table of members, against the public names of the class."""
    tables = re.findall(r"^\| member \|.*\n\|[-|]+\|\n((?:\|.*\|\n)+)", text_of(page), re.MULTILINE)
    names = [set(re.findall(r"^\| `(\w+)", rows, re.MULTILINE)) for rows in tables]
    return {name for name in vars(class_of) if not name.startswith("_")} - {"kind"} in names


@pytest.mark.parametrize("page", FILES)
def test_the_files_of_a_page_are_those_of_the_repository(page):
    """So the contract that is held for the files is held for the page."""
    python, configuration = FILES[page]
    assert block(page, "python") == (ROOT / python).read_text(encoding="utf-8")
    if configuration:
        assert block(page, "yaml") == (ROOT / configuration).read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "group"), CHOICES)
def test_every_choice_is_in_the_table_of_its_page(page, group):
    names = [row[0].strip("| `") for row in table(page, f"`{group}`")]
    assert sorted(names) == sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize(
    ("page", "class_of"),
    [("ranker", RankerModel), ("user-encoder", UserEncoder), ("candidate-source", CandidateSource)],
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
    for choice, text in {
        "ranking/model/mine": block("ranker", "yaml").replace("recsys.ranking.dlrm.", "my_dlrm."),
        "retrieval/user_encoder/mine": block("user-encoder", "yaml").replace("recsys.retrieval.gru.", "my_gru."),
        "retrieval/loss/mine": "_target_: my_loss.HingeLoss\nmargin: 0.2\n",
        "candidates/source/mine": block("candidate-source", "yaml").replace(
            "recsys.candidates.own_history.", "my_source."
        ),
    }.items():
        (folder / choice).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{choice}.yaml").write_text(text, encoding="utf-8")
    chosen = (
        *("ranking/model=mine", "retrieval/user_encoder=mine", "retrieval/loss=mine"),
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
