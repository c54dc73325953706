"""`python -m tiercast.cli`."""

from . import main

main()
