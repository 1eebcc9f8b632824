"""``python -m tests.support.what_i_am [STATUS]``: print as JSON what a process sees of itself, and exit with this status."""

import json
import os
import sys
import tempfile
import time

if __name__ == "__main__":
    told = {
        "arguments": sys.argv[1:],
        "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")),
        "directory": os.getcwd(),
        "environment": dict(os.environ),
        "input": sys.stdin.read(),
        "leads": os.getsid(0) == os.getpgid(0) == os.getpid(),
        "path": sys.path,
        "temporary": tempfile.gettempdir(),
        "zone": time.tzname,
    }
    print(json.dumps(told))
    sys.exit(int(sys.argv[1]))
