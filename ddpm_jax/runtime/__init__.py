"""The process a script runs in: devices, other processes, signals, files, progress."""
