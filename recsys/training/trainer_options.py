"""Options of Lightning's Trainer under `trainer.options`, checked before data are read."""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from recsys.errors import ConfigError, check_ranges

DEFAULT_OPTIONS: Mapping[str, Any] = {"gradient_clip_val": 1.0}
"""those of conf/trainer that differ from Lightning's own, for models that are trained without conf/"""
PROFILERS: Mapping[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}
PROFILE = "profile"
"""part of the name of a profiler's file"""
SEVERAL = "trainer.options.devices says how many take part; torchrun starts several machines"
EPOCHS = "set retrieval.epochs and ranking.epochs"
SET_ELSEWHERE: Mapping[str, str] = {
    "accelerator": "choose trainer=cpu or trainer=gpu",
    "precision": "set trainer.precision",
    "callbacks": "set trainer.callbacks",
    "logger": "choose logger=",
    "enable_progress_bar": "set trainer.progress",
    "default_root_dir": "set run_dir",
    "enable_checkpointing": "set trainer.checkpoint_steps for more checkpoints than one an epoch",
    "max_epochs": EPOCHS,
    "max_steps": f"{EPOCHS}, or trainer.options.limit_train_batches",
    "limit_val_batches": "validation is one batch: set evaluation.validation_users or ranking.sampling.validation_requests",
    "strategy": SEVERAL,
    "num_nodes": SEVERAL,
    "sync_batchnorm": SEVERAL,
    "use_distributed_sampler": SEVERAL,
    "reload_dataloaders_every_n_epochs": "the batches of an epoch follow from seed and epoch",
}
"""options of Lightning's that have another key here, or none -> what to do"""


def check_accelerator(accelerator: str) -> None:
    """Raise ConfigError for another one than cpu or cuda, or one that this machine lacks."""
    if accelerator not in ("cpu", "cuda"):
        raise ConfigError(f"trainer.accelerator is {accelerator!r}; choose cpu or cuda")
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator is cuda, but torch finds no CUDA device here; use trainer=cpu")


def check_devices(accelerator: str, devices: int | Sequence[int]) -> None:
    """Raise ConfigError for devices that this machine lacks."""
    if accelerator == "cpu":
        if not isinstance(devices, int) and len(devices) > 1:
            raise ConfigError(
                f"trainer.options.devices is {list(devices)}; on the CPU write how many processes, not numbers"
            )
        return
    found = torch.cuda.device_count()
    most = devices if isinstance(devices, int) else 1 + max(devices)
    if most > found:
        raise ConfigError(
            f"trainer.options.devices is {devices}, this machine has {found} CUDA devices; choose among them"
        )


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ConfigError for an option that Lightning lacks, that is set elsewhere, or that a fit could not follow."""
    known = [name for name in inspect.signature(pl.Trainer.__init__).parameters if name != "self"]
    for name in options:
        if name in SET_ELSEWHERE:
            raise ConfigError(f"trainer.options has {name}, which is not chosen there; {SET_ELSEWHERE[name]}")
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
            meant = f"did you mean {' or '.join(near)}?" if near else "give an argument of Lightning's Trainer"
            raise ConfigError(f"trainer.options has {name}, which Lightning's Trainer lacks; {meant}")
    check_ranges(
        "trainer.options",
        check_val_every_n_epoch=(options.get("check_val_every_n_epoch", 1), 1, 10_000),
        accumulate_grad_batches=(options.get("accumulate_grad_batches", 1), 1, 1_000_000),
        overfit_batches=(options.get("overfit_batches", 0), 0, 1_000_000),
    )
    share, devices = options.get("val_check_interval", 1.0), options.get("devices", 1)
    if not isinstance(share, float) or not 0 < share <= 1:
        raise ConfigError(f"trainer.options.val_check_interval is {share!r}; choose a share of an epoch up to 1.0")
    numbers = devices if isinstance(devices, Sequence) and not isinstance(devices, str) else [devices]
    whole = all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in numbers)
    if not devices or not whole:
        raise ConfigError(f"trainer.options.devices is {devices!r}; choose how many, or a list of their numbers")
    profiler = options.get("profiler")
    if profiler is not None and profiler not in PROFILERS and not isinstance(profiler, Profiler):
        raise ConfigError(
            f"trainer.options.profiler is {profiler!r}; choose {', '.join(PROFILERS)}, or a profiler by _target_"
        )


def lightning_trainer(options: Mapping[str, Any], folder: Path, **own: Any) -> pl.Trainer:
    """Build Lightning's Trainer; ConfigError for a value that it refuses."""
    given = {name: value for name, value in options.items() if name not in ("overfit_batches", "profiler")}
    defaults = {"devices": 1, "enable_model_summary": False, "num_sanity_val_steps": 0, "log_every_n_steps": 10}
    try:
        profiler = _profiler(options.get("profiler"), folder)
        return pl.Trainer(**(defaults | given), **own, profiler=profiler, default_root_dir=folder)
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ConfigError(f"trainer.options: {' '.join(str(error).split())}") from None


def profiles(folder: Path) -> list[Path]:
    """Return the files that a profiler has written for a fit."""
    return sorted(folder.glob(f"*{PROFILE}*"))


def _profiler(chosen: str | Profiler | None, folder: Path) -> Profiler | None:
    """Build the profiler of one fit, which writes into its folder."""
    if isinstance(chosen, str):
        return PROFILERS[chosen](dirpath=folder, filename=PROFILE)
    profiler = deepcopy(chosen)
    if profiler is not None:
        profiler.dirpath, profiler.filename = profiler.dirpath or folder, profiler.filename or PROFILE
    return profiler
