"""Train, evaluate and save one cascade, as `recsys train` does: `python train.py --help` lists every group and option."""

from recsys.cli.train import main, train

__all__ = ["main", "train"]

if __name__ == "__main__":
    main()
