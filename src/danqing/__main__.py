"""`python -m danqing` is the same command as `danqing`."""

from danqing.cli import main

main()
