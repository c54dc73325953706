"""`python -m tiercast`: the command line."""

from .cli import main

main()
