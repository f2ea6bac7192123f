"""Which kind of network an interface is: a made-up /sys, and this machine's own loopback."""

from pathlib import Path

import pytest

from edgeinfer.sync.budget import NetworkKind
from edgeinfer.sync.network import default_address, interface_of, kind_of_interface


def interface(sys: Path, name: str, *, type_: int = 1, device: bool = True, uevent: str = "", **folders: bool) -> None:
    folder = sys / "class" / "net" / name
    folder.mkdir(parents=True)
    (folder / "type").write_text(f"{type_}\n")
    (folder / "uevent").write_text(f"INTERFACE={name}\n{uevent}\n")
    for child in ("device", *folders) if device else tuple(folders):
        (folder / child).mkdir()


@pytest.mark.parametrize(
    ("name", "made", "kind"),
    [
        ("eth0", {}, "ethernet"),
        ("enp3s0", {}, "ethernet"),
        ("end0", {"wireless": True}, "wifi"),
        ("mlan0", {"phy80211": True}, "wifi"),
        ("x0", {"uevent": "DEVTYPE=wlan"}, "wifi"),
        ("wlan0", {"device": False}, "wifi"),
        ("wwan0", {}, "cellular"),
        ("x1", {"uevent": "DEVTYPE=wwan"}, "cellular"),
        ("ppp0", {"type_": 512, "device": False}, "cellular"),
        ("x2", {"type_": 519}, "cellular"),
        ("rmnet_data0", {"device": False}, "cellular"),
        ("tun0", {"type_": 65534, "device": False}, "other"),
        ("can0", {"type_": 280}, "other"),
        ("veth1", {"device": False}, "other"),
    ],
)
def test_kinds(tmp_path: Path, name: str, made: dict[str, bool], kind: NetworkKind) -> None:
    interface(tmp_path, name, **made)  # type: ignore[arg-type]  # the keywords of each case
    assert kind_of_interface(name, sys=tmp_path) == kind


def test_what_is_made_of_others_is_the_dearest_of_them(tmp_path: Path) -> None:
    interface(tmp_path, "eth0")
    interface(tmp_path, "wwan0")
    interface(tmp_path, "eth0.5", device=False, lower_eth0=True)
    interface(tmp_path, "bond0", device=False, lower_eth0=True, lower_wwan0=True)
    interface(tmp_path, "br0", device=False, lower_bond0=True)
    interface(tmp_path, "loop", device=False, lower_loop=True)
    assert kind_of_interface("eth0.5", sys=tmp_path) == "ethernet"
    assert kind_of_interface("br0", sys=tmp_path) == "cellular"
    assert kind_of_interface("loop", sys=tmp_path) == "other"


def test_what_is_not_there_is_other(tmp_path: Path) -> None:
    assert kind_of_interface("gone0", sys=tmp_path) == "other"
    assert kind_of_interface("", sys=tmp_path) == "other"
    assert kind_of_interface("lo") == "other"


def test_the_interface_of_an_address(tmp_path: Path) -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("::ffff:127.0.0.1") == "lo"
    assert interface_of("192.0.2.77") == ""
    assert interface_of("no address") == ""
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "if_inet6").write_text(
        "00000000000000000000000000000001 01 80 10 80       lo\nfe80000000000000021122fffe334455 02 40 20 80    wlan0\n"
    )
    assert interface_of("fe80::211:22ff:fe33:4455%wlan0", proc=tmp_path) == "wlan0"
    assert interface_of("::1", proc=tmp_path) == "lo"
    assert interface_of("2001:db8::1", proc=tmp_path) == ""


def test_the_default_route_leaves_by_an_interface_of_this_machine() -> None:
    address = default_address()
    assert (interface_of(address) != "") is (address != "")
