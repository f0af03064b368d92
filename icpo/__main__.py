"""`python -m icpo`: the command line."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # As with the command `icpo`, no file of the folder that one stands in is taken for a library.
    if not sys.flags.safe_path and Path(sys.path[0]) != Path(__file__).resolve().parents[1]:
        del sys.path[0]
    from icpo.flows.cli import main

    main()
