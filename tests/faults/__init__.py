"""Real processes with real faults: runs by seed, the chaos of results, and the soak."""
