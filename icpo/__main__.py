"""`python -m icpo`: the command line."""

from icpo.flows.cli import main

if __name__ == "__main__":
    main()
