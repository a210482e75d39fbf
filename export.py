"""Turn a bundle into a Triton model repository, as `recsys export` does: `python export.py bundle=runs/demo/bundle`."""

from recsys.cli.export import export, main

__all__ = ["export", "main"]

if __name__ == "__main__":
    main()
