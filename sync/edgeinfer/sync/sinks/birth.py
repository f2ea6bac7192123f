"""Who this device is, for an other side that does not hear it over the broker."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgeinfer.sync.daemon_view import DaemonView
from edgeinfer.sync.messages import MAX_CONTROL_BYTES, Birth, encode

__all__ = ["birth_message"]


def birth_message(
    runtime_dir: Path, *, session: str, epoch: int, lowest_seq: int, groups: tuple[str, ...] = ()
) -> bytes:
    """An encoded `Birth`: what the daemon's status says of the device, and that of `epoch` nothing below `lowest_seq`
    can still come. Without a status, only that."""
    view = DaemonView(runtime_dir)
    view.poll(0.0, at_once=True)
    view.close()
    birth = Birth(
        session=session,
        agent_version=_own_version(),
        epochs={str(epoch): lowest_seq},
        profile=view.status.profile,
        engines=view.status.engines,
        groups=groups,
    )
    encoded = encode(birth)
    if len(encoded) <= MAX_CONTROL_BYTES:
        return encoded
    return encode(Birth(session=session, agent_version=birth.agent_version, epochs=birth.epochs, groups=groups))


def _own_version() -> str:
    try:
        return version("edgeinfer")
    except PackageNotFoundError:
        return "unknown"
