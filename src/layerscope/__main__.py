"""`python -m layerscope` is the command."""

from layerscope.cli.app import main

main()
