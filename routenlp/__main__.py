"""``python -m routenlp``, the same as ``routenlp``."""

import sys

from routenlp_integrations.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
