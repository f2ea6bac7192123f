"""From what the user names to the target: `local`, a kind of device, or a device that ssh reaches."""

from edgeinfer.devices.profile import load_kinds
from edgeinfer.quantize.targets.base import Target
from edgeinfer.runtime.errors import UsageError

__all__ = ["open_target"]

LOCAL = "local"


def open_target(spec: str, *, threads: int = 1) -> Target:
    """`local`, the name of a profile (`rpi4`), or `ssh://[user@]host[:port][/path/to/edgeinfer]`. Raises UsageError for
    anything else, DependencyError and RemoteError where the device cannot be asked."""
    if spec == LOCAL:
        from edgeinfer.quantize.targets.local import LocalTarget

        return LocalTarget(threads=threads, machine=_this_machine())
    if spec.startswith("ssh://"):
        from edgeinfer.quantize.targets.remote import SshTarget

        return SshTarget(spec, threads=threads)
    kinds = {kind.name: kind for kind in load_kinds()}
    if spec in kinds:
        from edgeinfer.quantize.targets.profile import ProfileTarget

        return ProfileTarget(kinds[spec])
    raise UsageError(
        f"expected a target, found {spec!r}",
        hint=f"there are {LOCAL}, ssh://user@host, and the profiles {', '.join(sorted(kinds))}",
    )


def _this_machine() -> str:
    from edgeinfer.devices.probe import probe

    found = probe()
    return found.cpu or found.arch
