"""What a device is: measured on the spot (`probe`), known beforehand (`profiles/*.toml`), and checked (`doctor`).

    from edgeinfer.devices.probe import probe

    profile = probe()
    profile.features      # ("avx2", "fma", ...)

The lowest layer: it imports nothing else of edgeinfer and nothing heavy.
"""

from edgeinfer.devices.profile import DeviceKind, Profile, ProfileError, ThermalZone, find_kind, load_kind, load_kinds

__all__ = ["DeviceKind", "Profile", "ProfileError", "ThermalZone", "find_kind", "load_kind", "load_kinds"]
