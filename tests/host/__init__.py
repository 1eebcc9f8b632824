"""A bare host with systemd as PID 1, and what the guide for services promises on it."""
