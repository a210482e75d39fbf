"""The Python reference: one page a public module; mkdocstrings fills it from the source without importing it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = (
    "recsys",
    "recsys.recommender",
    "recsys.run",
    "recsys.click_model",
    "recsys.contracts",
    "recsys.bundle",
    "recsys.pipeline",
    "recsys.stages.load",
    "recsys.errors",
    "recsys.expressions",
    "recsys.data.description",
    "recsys.data.sources.tables",
    "recsys.data.sources.click_log",
    "recsys.data.bandit",
    "recsys.data.splits",
    "recsys.policy.rules",
    "recsys.policy.rules.store",
    "recsys.items.store",
    "recsys.evaluation.evaluate",
    "recsys.evaluation.stream",
    "recsys.measurement.settings",
    "recsys.measurement.outcomes",
    "recsys.measurement.kpis",
    "recsys.measurement.arms",
    "recsys.experiments.assignment",
    "recsys.experiments.design",
    "recsys.experiments.effects",
    "recsys.experiments.sequential",
    "recsys.experiments.analysis",
    "recsys.experiments.cohorts",
    "recsys.experiments.off_policy",
    "recsys.experiments.reward_model",
    "serving.triton.client",
    "serving.triton.server",
    "serving.gateway.settings",
)
"""in the order of the navigation; a module that is moved or renamed is changed here"""


def paths() -> dict[str, str]:
    """module -> path of its page"""
    for module in PUBLIC:
        path = ROOT / Path(*module.split("."))
        if not path.with_suffix(".py").is_file() and not (path / "__init__.py").is_file():
            raise LookupError(f"docs/reference/python.py names {module}, which is not there; correct PUBLIC")
    return {module: f"reference/python/{module}.md" for module in PUBLIC}


def pages() -> dict[str, str]:
    """path -> page"""
    return {path: f"# {module}\n\n::: {module}\n" for module, path in paths().items()}
