"""Targets: where candidates are timed, on this machine, on another one, or by rules for a kind of device."""
