"""``python -m robust_fedrec COMMAND``: the same as the command ``robust-fedrec``."""

import sys

from robust_fedrec.command import main

if __name__ == "__main__":
    sys.exit(main())
