"""`python -P -m modelproxy.supervisor`: the daemon in the foreground."""

import sys

from .daemon import main

sys.exit(main())
