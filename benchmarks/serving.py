"""`python benchmarks/serving.py`: what serving costs, see serving_cost.py.

This file has the name of the package that it measures, and scripts beside it look here first: it leads them on.
"""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[1] / "serving")]

if __name__ == "__main__":
    from serving_cost import main

    from recsys.errors import exit_on_error

    with exit_on_error():
        main()
