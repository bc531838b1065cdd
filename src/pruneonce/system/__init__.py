"""The machine and its operating system: files that survive a crash, locks, signals, processes, instruction sets."""
