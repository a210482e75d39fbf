"""The page docs/how-to/add-a-ranker.md: its two files are those that are tested, and both they and its commands run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from recsys.bundle import Bundle
from recsys.ranking.model import RankerModel

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "add-a-ranker.md").read_text(encoding="utf-8")
TINY = ("data.users=60", "data.events=2000", "ranking.requests=200", "ranking.epochs=1", "retrieval.epochs=1")


def block(language):
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return text


def commands():
    return [line for text in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in text.splitlines()]


def test_the_files_of_the_page_are_those_of_the_repository():
    """So the contract that `test_ranker_models` holds for the files is held for the page."""
    assert block("python") == (ROOT / "recsys" / "ranking" / "dlrm.py").read_text(encoding="utf-8")
    assert block("yaml") == (ROOT / "conf" / "ranking" / "model" / "dlrm.yaml").read_text(encoding="utf-8")


def test_every_choice_is_on_the_page():
    choices = {file.stem for file in (ROOT / "conf" / "ranking" / "model").glob("*.yaml")}
    assert set(re.findall(r"^\| `(\w+)` \| [^|]+ \|$", PAGE, re.MULTILINE)) == choices


def test_the_protocol_of_the_page_is_that_of_the_code():
    found = set(re.findall(r"^\| `(\w+)(?:\([^)]*\))?` \| .* \| .* \|$", PAGE, re.MULTILINE))
    assert found == {name for name in vars(RankerModel) if not name.startswith("_")}


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_page_composes(command):
    overrides = [one for one in command.split()[2:] if one != "-m"]
    for choice in ("default", "dcn_v2", "dlrm") if "-m" in command else (None,):
        chosen = [f"ranking/model={choice}" if choice and one.startswith("ranking/model") else one for one in overrides]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose("train", overrides=chosen)
        assert issubclass(instantiate(config.ranking, _convert_="all").model.func, RankerModel)


def test_the_example_is_trained_from_a_folder_of_its_own(tmp_path):
    """Both blocks as somebody else's ranker, outside of the repository: a module on the path and a folder of YAML."""
    (tmp_path / "my_dlrm.py").write_text(block("python"), encoding="utf-8")
    folder = tmp_path / "my_conf" / "ranking" / "model"
    folder.mkdir(parents=True)
    own = block("yaml").replace("recsys.ranking.dlrm.", "my_dlrm.")
    (folder / "my_ranker.yaml").write_text(own, encoding="utf-8")
    command = [sys.executable, "train.py", "--config-dir", str(tmp_path / "my_conf"), "ranking/model=my_ranker"]
    done = subprocess.run(
        [*command, "recipe=synthetic", *TINY, "refit=false", f"run_dir={tmp_path / 'run'}"],
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
    assert any(name.startswith("ranker.bottom") for name in bundle.arrays("weights.safetensors"))
