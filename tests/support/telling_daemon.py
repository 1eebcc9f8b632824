"""The daemon, which tells systemd of every workflow that it recovers: ``python -m tests.support.telling_daemon serve``."""

from dyrygentd.cli.serve import main
from dyrygentd.daemon import keepalive

if __name__ == "__main__":
    keepalive._START_INTERVAL_S = 0.0
    main()
