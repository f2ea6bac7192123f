"""From what the user names to the target: `local`, a kind of device, or a device that ssh or a console reaches."""

from pathlib import Path

from edgeinfer.devices.profile import load_kinds
from edgeinfer.quantize.targets.base import Fleet, Target
from edgeinfer.runtime.errors import UsageError

__all__ = ["open_target"]

LOCAL = "local"
_DEVICE = "device:"


def open_target(spec: str, *, threads: int = 1, fleet: Fleet | None = None, sign_key: Path | None = None) -> Target:
    """`local`, the name of a profile (`rpi4`), or `ssh://[user@]host[:port][/path/to/edgeinfer]`, or `device:ID`: a
    device of `fleet`, which is sent packages that `sign_key` signs. Raises UsageError for anything else,
    DependencyError, RemoteError and ConsoleError where the device cannot be asked."""
    if spec == LOCAL:
        from edgeinfer.quantize.targets.local import LocalTarget

        return LocalTarget(threads=threads, machine=_this_machine())
    if spec.startswith("ssh://"):
        from edgeinfer.quantize.targets.remote import SshTarget

        return SshTarget(spec, threads=threads)
    if spec.startswith(_DEVICE):
        return _of_fleet(spec, threads=threads, fleet=fleet, sign_key=sign_key)
    kinds = {kind.name: kind for kind in load_kinds()}
    if spec in kinds:
        from edgeinfer.quantize.targets.profile import ProfileTarget

        return ProfileTarget(kinds[spec])
    raise UsageError(
        f"expected a target, found {spec!r}",
        hint=f"there are {LOCAL}, ssh://user@host, {_DEVICE}ID, and the profiles {', '.join(sorted(kinds))}",
    )


def _of_fleet(spec: str, *, threads: int, fleet: Fleet | None, sign_key: Path | None) -> Target:
    from edgeinfer.quantize.signing import load_key
    from edgeinfer.quantize.targets.fleet import DeviceTarget

    if sign_key is None:
        raise UsageError(
            f"{spec}: expected a release key, found none: a device times only what is signed",
            hint="--sign-key FILE, whose public key the device and the console have in [trust] release_keys",
        )
    if fleet is None:
        raise UsageError(f"{spec}: expected a console to ask", hint="--console http://HOST:PORT")
    return DeviceTarget(spec, fleet, key=load_key(sign_key), threads=threads)


def _this_machine() -> str:
    from edgeinfer.devices.probe import probe

    found = probe()
    return found.cpu or found.arch
