"""Every configuration file is one constructor call that exists, and every choice composes and builds."""

import inspect
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Callback

from recsys.candidates.item_item import Cooccurrence, Cosine, Ease, Transitions
from recsys.cli.experiment import build
from recsys.cli.search import distribution, ends
from recsys.cli.sweep import corners
from recsys.cli.train import RENAMED_KEYS, renamed
from recsys.errors import ConfigError, sentence_of

CONF = Path(__file__).parents[1] / "conf"
FILES = sorted(CONF.rglob("*.yaml"))
GLOBAL = ("recipe", "hparams_search", "debug")
"""groups that change what others say"""
CHOICES = [
    (str(file.parent.relative_to(CONF)), file.stem)
    for file in FILES
    if file.parent.name not in ("conf", "launcher", "sweeper", *GLOBAL)
]
PACKAGES = {
    "candidates/operator": "candidates.sources.item_item.grid.operator",
    "candidates/source": "candidates.sources.further",
    "optimizer": "ranking.optimizer",
    "scheduler": "retrieval.scheduler",
    "callbacks": "trainer.callbacks",
}
"""of groups that are not where their folder is"""
SEVERAL = {"callbacks": Callback, "candidates/operator": (Cosine, Cooccurrence, Transitions, Ease)}
"""groups whose files hold several things by name"""
RECIPES = sorted(file.stem for file in (CONF / "recipe").glob("*.yaml"))
FORMS_OF_HYDRA = {"defaults", "_target_", "_convert_", "_recursive_", "_partial_", "_args_"}
NOT_BUILT = ("task", "seed", "seeds", "run_dir", "refit", "evaluate", "optimised_metric", "budget")
NEEDED = {"tables": ["data.description=missing.yaml"], "sequence": ["data.path=missing.txt"]}
NEEDED["click_log"] = ["data.description=missing.yaml"]
NEEDED |= {"proportions": ["policy.diversity.of=genres"]}
NEEDED["event_log"] = ["data.folder=missing", "data.description=missing.yaml"]
NEEDED |= {name: ["data.folder=missing"] for name in ("informfully", "retailrocket", "steam")}
"""by data set or recipe"""


def nodes(document, path=""):
    """(path, node) of everything with a _target_, nested ones too."""
    if isinstance(document, dict):
        if "_target_" in document:
            yield path or ".", document
        for key, value in document.items():
            yield from nodes(value, f"{path}.{key}".lstrip("."))
    elif isinstance(document, list):
        for place, value in enumerate(document):
            yield from nodes(value, f"{path}[{place}]")


def inherited(file):
    """Content of a file with the keys of those of its group that it begins with."""
    own = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    defaults = own.get("defaults", ()) if isinstance(own, dict) else ()
    bases = [file.with_name(f"{one}.yaml") for one in defaults if isinstance(one, str)]
    for base in filter(Path.is_file, bases):  # not those of Hydra itself
        own = inherited(base) | own
    return own


EVERY = [(node, f"{file.relative_to(CONF)}:{path}") for file in FILES for path, node in nodes(inherited(file))]
OURS = [(node, place) for node, place in EVERY if node["_target_"].startswith("recsys.")]
"""Lightning's callbacks have defaults of their own"""
TARGETS = [pytest.param(node, id=place) for node, place in OURS]
CALLED = [pytest.param(node, id=place) for node, place in OURS if not node.get("_partial_")]
TUNED = [pytest.param(node, id=place) for node, place in EVERY if "grid" in node]
FACTORIES = {
    "ranking/model/": {"inputs", "sizes"},
    "ranking/pointwise/auto.yaml:teachers.": {"inputs", "sizes"},
    "ranking/pointwise/distillation.yaml:teachers.": {"inputs", "sizes"},
    "retrieval/user_encoder/": {"dim", "length", "dropout"},
    "optimizer/": {"parameters", "learning_rate", "weight_decay", "fused"},
    "scheduler/": {"step", "steps"},
}
"""groups whose classes the training calls -> what it gives them beside the keys of their file"""
CALLED_LATER = [
    pytest.param(node, given, id=place)
    for node, place in EVERY
    for group, given in FACTORIES.items()
    if place.startswith(group)
]


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def built(node):
    return instantiate(node, _convert_="all")


def keys(node):
    return set(node) - FORMS_OF_HYDRA


def parameters(node):
    return set(inspect.signature(get_object(node["_target_"])).parameters)


@pytest.mark.parametrize("node", CALLED)
def test_a_target_exists_and_takes_exactly_the_keys_of_its_file(node):
    inherits = any(one != "_self_" for one in node.get("defaults", ()) if isinstance(one, str))
    assert keys(node) <= parameters(node) if inherits else keys(node) == parameters(node)


@pytest.mark.parametrize("node", TUNED)
def test_a_baseline_or_source_takes_exactly_what_is_given_and_what_is_chosen(node):
    tuned = node.get("baseline") or node["source"]
    given, chosen = keys(tuned), set(node["grid"])
    assert not given & chosen
    assert given | chosen == parameters(tuned)


@pytest.mark.parametrize(("node", "given"), CALLED_LATER)
def test_a_model_takes_what_training_gives_and_the_keys_of_its_file(node, given):
    assert parameters(node) == given | keys(node)


def test_what_is_called_later_is_a_baseline_a_source_or_a_model():
    assert len(TARGETS) - len(CALLED) == len(TUNED) + len(CALLED_LATER)
    assert TUNED
    assert CALLED_LATER


@pytest.mark.parametrize("node", TARGETS)
def test_a_target_has_no_second_default_and_no_positional_knob(node):
    target = get_object(node["_target_"])
    for parameter in inspect.signature(target).parameters.values():
        assert parameter.default is inspect.Parameter.empty, parameter.name
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY or not inspect.isclass(target), parameter.name


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("group", ["retrieval/user_encoder", "retrieval/loss"])
def test_a_model_chosen_beside_a_recipe_has_its_own_keys_alone(recipe, group):
    for option in (option for named, option in CHOICES if named == group):
        chosen = composed(f"recipe={recipe}", f"{group}={option}", *NEEDED.get(recipe, []))
        node = OmegaConf.to_container(OmegaConf.select(chosen, group.replace("/", ".")))
        written = yaml.safe_load((CONF / group / f"{option}.yaml").read_text(encoding="utf-8"))
        assert keys(node) == keys(written), option


@pytest.mark.parametrize(("group", "option"), CHOICES, ids=lambda value: value)
def test_every_choice_composes_and_builds(group, option):
    package = PACKAGES.get(group, group.replace("/", "."))
    chosen = f"{group}={option}" if package == group.replace("/", ".") else f"{group}@{package}={option}"
    chosen = f"+{chosen}" if group == "candidates/source" else chosen
    node = OmegaConf.select(
        composed(chosen, *(NEEDED.get(option, []) if group in ("data", "policy/diversity") else [])), package
    )
    if group == "trainer" and option in ("gpu", "ddp") and not torch.cuda.is_available():
        with pytest.raises(InstantiationException) as refused:
            built(node)
        assert sentence_of(refused.value) == str(refused.value.__cause__)
        assert isinstance(refused.value.__cause__, ConfigError)
        assert "CUDA" in str(refused.value.__cause__)
    else:
        part = built(node)
        if group in SEVERAL:
            assert all(isinstance(one, SEVERAL[group]) for one in part.values())
            return
        kind = part.func if isinstance(part, partial) else type(part)
        assert kind.__module__.startswith("recsys.")


@pytest.mark.parametrize("recipe", [None, *RECIPES])
def test_every_recipe_builds_all_of_its_parts(recipe):
    config = composed(*([f"recipe={recipe}", *NEEDED.get(recipe, [])] if recipe else []))
    for name in config:
        if name not in NOT_BUILT:
            built(config[name])


@pytest.mark.parametrize("group", ["debug", "hparams_search"])
def test_every_global_choice_builds_all_of_its_parts(group):
    for file in (CONF / group).glob("*.yaml"):
        config = composed(f"{group}={file.stem}")
        for name in config:
            if name not in NOT_BUILT:
                built(config[name])


@pytest.mark.parametrize("launcher", ["local", "slurm", "basic", "joblib", "submitit_local"])
def test_every_launcher_of_a_sweep_composes(launcher):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=[f"hydra/launcher={launcher}"], return_hydra_config=True)
    target = {"local": "Joblib", "slurm": "Slurm", "submitit_local": "Local"}.get(launcher, launcher.capitalize())
    assert config.hydra.launcher._target_.rpartition(".")[2] == f"{target}Launcher"
    if launcher in ("local", "slurm"):
        own = yaml.safe_load((CONF / "hydra" / "launcher" / f"{launcher}.yaml").read_text(encoding="utf-8"))
        assert {key: config.hydra.launcher[key] for key in own if key != "defaults"} == {
            key: value for key, value in own.items() if key != "defaults"
        }


@pytest.mark.parametrize("file", sorted((CONF / "hparams_search").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_choice_and_end_of_a_search_builds(file):
    params = yaml.safe_load(file.read_text(encoding="utf-8"))["hydra"]["sweeper"]["params"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        space = {key: distribution(parser.parse_override(f"{key}={choices}")) for key, choices in params.items()}
        found = list(corners({key: ends(one) for key, one in space.items()}))
        for corner in found:
            overrides = [f"hparams_search={file.stem}", *(f"{key}={value}" for key, value in corner.items())]
            build(compose("train", overrides=overrides))
    assert len(found) > len(space), "every key has something to choose"


def test_the_recipe_of_sequences_can_do_without_its_ranker():
    assert built(composed("recipe=sequence", *NEEDED["sequence"]).ranking).sampling.dense_candidates == 100
    assert "ranking" not in composed("recipe=sequence", "~ranking", *NEEDED["sequence"])


def test_a_global_choice_may_change_what_the_first_file_says():
    assert composed().refit is True
    assert composed("debug=default").refit is False


def test_a_recipe_may_change_what_the_groups_say():
    assert composed("recipe=synthetic").features.history_length != composed().features.history_length
    assert "Synthetic" in composed("recipe=synthetic").data._target_


@pytest.mark.parametrize(("option", "key"), [("tables", "description"), ("sequence", "path")])
def test_own_data_asks_for_its_file(option, key):
    with pytest.raises(Exception, match=key):
        built(composed(f"data={option}").data)
    assert getattr(built(composed(f"data={option}", f"data.{key}=mine").data), key) == "mine"


@pytest.mark.parametrize(
    "override", ["retrieval.dimm=64", "polcy=default", "policy.diversity.tradeoff=1", "retrieval=three_tower", "sed=1"]
)
def test_a_misspelt_key_or_choice_is_refused_by_name(override):
    with pytest.raises(ConfigCompositionException) as refused:
        composed(override)
    assert override.split("=")[0].split(".")[-1] in sentence_of(refused.value)


def test_a_key_too_many_is_refused_by_the_constructor():
    with pytest.raises(InstantiationException, match="dimm"):
        built(composed("+retrieval.dimm=64").retrieval)


def test_a_value_out_of_range_is_refused_with_its_key():
    with pytest.raises(InstantiationException) as refused:
        built(composed("retrieval.dropout=2").retrieval)
    assert sentence_of(refused.value).startswith("retrieval.dropout is 2")


def test_export_composes():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("export", overrides=["bundle=somewhere"])
    assert (config.bundle, config.repository, config.profile) == ("somewhere", None, "cpu")


def test_the_old_name_of_a_key_is_read():
    overrides = ["retrieval.num_blocks=2", "retrieval.temperature=0.2", "retrieval.dim=32", "-m", "--help"]
    found = list(map(renamed, overrides))
    assert found[2:] == overrides[2:]
    assert OmegaConf.select(composed(*found[:2]), "retrieval.user_encoder.num_blocks") == 2
    for key in RENAMED_KEYS.values():
        assert OmegaConf.select(composed(), key.replace("/", "."), default="absent") != "absent"
