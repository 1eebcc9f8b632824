"""The process around the Scheduler: configuration, signals, logging, systemd and the embedded broker."""
