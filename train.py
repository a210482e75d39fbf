"""Train, evaluate and save one cascade, as `recsys train` does: `python train.py --help` lists every group and option."""

from recsys.cli.train import build, main, show, train

__all__ = ["build", "main", "show", "train"]

if __name__ == "__main__":
    main()
