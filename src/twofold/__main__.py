"""`python -m twofold`: the command without its entry point."""

from twofold.cli import main

main()
