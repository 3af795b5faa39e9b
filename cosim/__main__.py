"""`python -m cosim` is `cosim`."""

from cosim.cli.main import main

main()
