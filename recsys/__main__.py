"""`python -m recsys`"""

from recsys.cli.main import main

main()
