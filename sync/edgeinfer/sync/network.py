"""Which kind of network a connection goes over, by its own address: the interface that has it, and what that is.

    kind = kind_of_interface(interface_of("192.168.1.20"))       # "wifi"

Read from the kernel's files and one ioctl. A library, or glibc's `getifaddrs`, would ask over a netlink socket, which
the agent's service may not open.
"""

import re
import socket
import struct
from pathlib import Path

from edgeinfer.sync.budget import NetworkKind

__all__ = ["default_address", "interface_of", "kind_of_interface"]

_SIOCGIFCONF = 0x8912  # netdevice(7)
# Names that modems have had for long, whatever the kernel says that they are.
_CELLULAR = re.compile(r"^(wwan|wwp|ppp|rmnet|ccmni|mhi_|cdc-wdm|gsm|umts)")
_WIFI = re.compile(r"^(wlan|wlp|wlx|wl\d|ath\d)")
_ARPHRD_ETHER = 1  # linux/if_arp.h
_ARPHRD_PPP = 512
_ARPHRD_RAWIP = 519
_MAX_DEPTH = 4


def interface_of(address: str, *, proc: Path = Path("/proc")) -> str:
    """The name of the interface that has `address`; empty where none has. Never raises."""
    return (_interface_of_v6(address, proc) if ":" in address else _interface_of_v4(address)) or ""


def kind_of_interface(interface: str, *, sys: Path = Path("/sys"), _depth: int = 0) -> NetworkKind:
    """What an interface is. One that is made of others (a bridge, a VLAN, a bond) is what they are, the dearest first;
    a tunnel is `other`, for nothing tells what lies below it."""
    folder = sys / "class" / "net" / interface
    if not interface or interface == "lo" or not folder.exists():
        return "other"
    device_type = _uevent(folder).get("DEVTYPE", "")
    if device_type == "wwan" or _CELLULAR.match(interface) or _type(folder) in {_ARPHRD_PPP, _ARPHRD_RAWIP}:
        return "cellular"
    if (folder / "wireless").exists() or (folder / "phy80211").exists() or device_type == "wlan":
        return "wifi"
    if _WIFI.match(interface):
        return "wifi"
    below = _lower(folder) if _depth < _MAX_DEPTH else []
    if below:
        kinds = {kind_of_interface(name, sys=sys, _depth=_depth + 1) for name in below}
        order: tuple[NetworkKind, ...] = ("cellular", "wifi", "ethernet")
        return next((kind for kind in order if kind in kinds), "other")
    is_card = (folder / "device").exists() and _type(folder) == _ARPHRD_ETHER
    return "ethernet" if is_card else "other"


def default_address() -> str:
    """This device's address on its default route; empty where it has none. Sends nothing: a datagram socket is only
    told where it would send to, an address that no host has (RFC 5737, RFC 3849)."""
    for family, nowhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((nowhere, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return ""


def _interface_of_v4(address: str) -> str | None:
    """All addresses of all interfaces, by SIOCGIFCONF: pairs of a name and a sockaddr_in in one buffer."""
    import array
    import fcntl

    room = array.array("B", bytes(64 << 10))
    try:
        wanted = socket.inet_aton(address)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            request = struct.pack("iL", len(room), room.buffer_info()[0])
            length, _ = struct.unpack("iL", fcntl.ioctl(probe, _SIOCGIFCONF, request))
    except OSError:
        return None
    raw = room.tobytes()[:length]
    entry_bytes = 16 + struct.calcsize("LLL") if struct.calcsize("L") == 8 else 32  # sizeof(struct ifreq)
    for start in range(0, len(raw) - entry_bytes + 1, entry_bytes):
        entry = raw[start : start + entry_bytes]
        if entry[20:24] == wanted:  # ifr_name, sa_family, sin_port, sin_addr
            name = entry[:16].split(b"\0", 1)[0].decode("ascii", "replace")
            return name.partition(":")[0]  # eth0:1 is a second address of eth0
    return None


def _interface_of_v6(address: str, proc: Path) -> str | None:
    """proc(5): address, index, prefix length, scope, flags, name."""
    try:
        wanted = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except OSError:
        return None
    if wanted[:12] == bytes(10) + b"\xff\xff":  # an IPv4 address on a socket of IPv6
        return _interface_of_v4(socket.inet_ntoa(wanted[12:]))
    for line in _text(proc / "net" / "if_inet6").splitlines():
        fields = line.split()
        if len(fields) == 6 and fields[0] == wanted.hex():
            return fields[5]
    return None


def _uevent(folder: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in _text(folder / "uevent").splitlines())
    return {key: value for key, _, value in pairs}


def _type(folder: Path) -> int:
    text = _text(folder / "type").strip()
    return int(text) if text.isdecimal() else 0


def _lower(folder: Path) -> list[str]:
    """The interfaces that this one is made of."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return []
    return [name.removeprefix("lower_") for name in names if name.startswith("lower_")]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
