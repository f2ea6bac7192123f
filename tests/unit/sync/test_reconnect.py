"""Which broker next and after how long, what reason codes ask for, and which brokers a configuration names."""

import msgspec
import pytest

from edgeinfer.runtime.config import parse_config
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.sync.broker import BrokerConfig
from edgeinfer.sync.credentials import credentials
from edgeinfer.sync.reasons import After, Refusal, after, describe, refusal
from edgeinfer.sync.reconnect import Reconnect
from edgeinfer.sync.settings import SyncConfig


def reconnect(brokers: int = 1, *, jitter: float = 1.0) -> Reconnect:
    return Reconnect(brokers=brokers, longest_s=30.0, return_after_s=900.0, jitter=lambda: jitter)


# -- waits --------------------------------------------------------------------------------------------------------


def test_waits_grow_up_to_the_longest() -> None:
    one = reconnect()
    assert [one.ended(After.AGAIN, lasted_s=0.0) for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_waits_are_spread_over_their_upper_half() -> None:
    low, high = reconnect(jitter=0.0), reconnect(jitter=1.0)
    for _ in range(9):
        assert low.ended(After.AGAIN, lasted_s=0.0) == high.ended(After.AGAIN, lasted_s=0.0) / 2


def test_a_good_connection_forgets_the_waits() -> None:
    one = reconnect()
    for _ in range(9):
        one.ended(After.AGAIN, lasted_s=0.0)
    assert one.ended(After.AGAIN, lasted_s=1.0) == 30
    assert one.ended(After.AGAIN, lasted_s=60.0) == 30, "it has to outlast the wait before it"
    assert one.ended(After.AGAIN, lasted_s=61.0) == 0.25
    assert one.ended(After.AGAIN, lasted_s=5.0) == 0.5
    assert one.ended(After.AGAIN, lasted_s=5.1) == 0.25


def test_two_that_throw_each_other_out_take_turns_ever_more_rarely() -> None:
    """Without a reason given, each lasts as long as the other waits."""
    one, other = reconnect(jitter=0.3), reconnect(jitter=0.9)
    wait_s, waits = 0.0, []
    for turn in range(40):
        wait_s = (one, other)[turn % 2].ended(After.AGAIN, lasted_s=wait_s)
        waits.append(wait_s)
    assert min(waits[-10:]) > 15


def test_another_client_of_this_name_is_waited_out_up_to_five_minutes() -> None:
    one = reconnect()
    waits = [one.ended(After.SLOWLY, lasted_s=20.0) for _ in range(8)]
    assert waits == [9.375, 18.75, 37.5, 75, 150, 300, 300, 300]
    assert one.ended(After.SLOWLY, lasted_s=301.0) == 9.375


def test_wrong_credentials_are_not_tried_often() -> None:
    one = reconnect()
    assert [one.ended(After.REFUSED, lasted_s=0.0) for _ in range(3)] == [9.375, 18.75, 37.5]


# -- several brokers ----------------------------------------------------------------------------------------------


def visited(one: Reconnect, *ends: tuple[After, float]) -> list[int]:
    found = []
    for what, lasted_s in ends:
        one.ended(what, lasted_s=lasted_s)
        found.append(one.index)
    return found


def test_brokers_are_tried_in_order_and_then_waited_for() -> None:
    one = reconnect(3)
    waits, order = [], []
    for _ in range(6):
        waits.append(one.ended(After.AGAIN, lasted_s=0.0))
        order.append(one.index)
    assert order == [1, 2, 0, 1, 2, 0]
    assert waits == [0.25, 0.25, 0.5, 0.25, 0.25, 1.0]


def test_after_a_loss_the_first_is_tried_first() -> None:
    assert visited(reconnect(3), (After.AGAIN, 0.0), (After.AGAIN, 600.0), (After.AGAIN, 0.0)) == [1, 0, 1]


def test_a_broker_that_sends_us_on_is_left_for_the_next() -> None:
    assert visited(reconnect(2), (After.ELSEWHERE, 0.0)) == [1]
    assert visited(reconnect(2), (After.ELSEWHERE, 600.0)) == [1]
    assert reconnect(1).ended(After.ELSEWHERE, lasted_s=0.0) == 9.375, "there is nowhere to go"


def test_one_brokers_refusal_sends_us_to_the_next_and_all_of_them_make_us_wait() -> None:
    one = reconnect(2)
    assert one.ended(After.REFUSED, lasted_s=0.0) == 0.25
    assert one.ended(After.REFUSED, lasted_s=0.0) == 9.375
    one.ended(After.REFUSED, lasted_s=0.0)
    assert one.ended(After.AGAIN, lasted_s=0.0) == 0.5, "one that is only away may be back soon"


def test_another_client_of_this_name_does_not_drive_us_elsewhere() -> None:
    assert visited(reconnect(2), (After.SLOWLY, 1.0)) == [0]


def test_looks_for_the_first_are_further_apart_each_time_that_it_does_not_keep_us() -> None:
    one = reconnect(2)
    stays = []
    for _ in range(6):
        stays.append(one.stay_s())
        one.going_home()
    assert stays == [900, 1800, 3600, 7200, 14_400, 14_400]
    one.ended(After.AGAIN, lasted_s=60.0)  # the first has kept us for a while
    assert one.stay_s() == 900


# -- reason codes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "what"),
    [
        (0x00, After.AGAIN),
        (0x86, After.REFUSED),
        (0x87, After.REFUSED),
        (0x88, After.AGAIN),
        (0x8E, After.SLOWLY),
        (0x9C, After.ELSEWHERE),
        (0x9D, After.ELSEWHERE),
        (0xFF, After.AGAIN),
    ],
)
def test_what_a_code_asks_for_when_a_connection_ends(code: int, what: After) -> None:
    assert after(code) is what


@pytest.mark.parametrize(
    ("code", "what"),
    [
        (0x80, Refusal.BUSY),
        (0x83, Refusal.BUSY),
        (0x97, Refusal.BUSY),
        (0x87, Refusal.FORBIDDEN),
        (0x90, Refusal.FORBIDDEN),
        (0x99, Refusal.FORBIDDEN),
        (0x95, Refusal.TOO_LARGE),
    ],
)
def test_what_a_code_asks_for_when_a_message_is_refused(code: int, what: Refusal) -> None:
    assert refusal(code) is what


def test_a_code_is_said_in_words_with_what_can_be_done() -> None:
    assert describe(0x8E) == (
        "session taken over (0x8E): another client has connected with this device's name: is a second agent running?"
    )
    assert describe(0x97, "5 a day") == "quota exceeded (0x97): 5 a day"
    assert describe(0xF1) == "reason (0xF1)"


# -- configuration ------------------------------------------------------------------------------------------------


def brokers(text: str) -> list[BrokerConfig]:
    return list(parse_config(f'device = "d"\n{text}', SyncConfig).broker.in_order)


def test_one_broker_is_one_broker() -> None:
    assert brokers('[broker]\nhost = "a"') == [BrokerConfig(host="a")]


def test_fallbacks_are_addresses_or_tables_and_take_the_rest_from_the_first() -> None:
    found = brokers(
        '[broker]\nhost = "a"\nport = 8883\nusername = "u"\npassword_file = "/p"\ntls_ca = "/ca"\n'
        'fallbacks = ["b", "10.0.0.7:1884", "[fd00::1]:1885", "fd00::2", '
        '{ host = "c", port = 1886, token_file = "/t", tls_ca = "" }]'
    )
    assert [one.address for one in found] == [
        "a:8883",
        "b:8883",
        "10.0.0.7:1884",
        "[fd00::1]:1885",
        "[fd00::2]:8883",
        "c:1886",
    ]
    assert {one.username for one in found} == {"u"}
    assert [one.tls_ca for one in found] == ["/ca"] * 5 + [""]
    assert (found[-1].token_file, found[-1].password_file) == ("/t", "")
    assert all(one.fallbacks == () for one in found)


def test_fallbacks_may_be_tables_of_their_own() -> None:
    found = brokers('[broker]\nhost = "a"\n[[broker.fallbacks]]\nhost = "b"\nprotocol = 4\n')
    assert [(one.host, one.protocol) for one in found] == [("a", 5), ("b", 4)]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('fallbacks = ["a:b"]', "host or host:port"),
        ('fallbacks = ["a:0"]', "host or host:port"),
        ('fallbacks = [""]', "host or host:port"),
        ('fallbacks = ["a b"]', "host or host:port"),
        ('fallbacks = [{ host = "a", pot = 1 }]', "pot"),
        ('password_file = "/p"\ntoken_file = "/t"', "password_file or token_file"),
        ('protocol = 4\npassword_file = "/p"', "username"),
        ('tls_key = "/k"', "tls_cert"),
        ('fallbacks = [{ host = "b", token_file = "/t", password_file = "/q" }]', "both"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        brokers(f"[broker]\n{text}")


def test_protocols_that_do_not_exist_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="protocol"):
        msgspec.convert({"protocol": 3}, BrokerConfig)


def test_a_token_is_sent_under_the_devices_name_unless_there_is_another(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    secret = tmp_path_factory.mktemp("secrets") / "token"
    secret.write_text("eyJ.a.b\n")
    assert credentials(BrokerConfig(token_file=str(secret)), "dev-1") == ("dev-1", "eyJ.a.b")
    assert credentials(BrokerConfig(token_file=str(secret), username="u"), "dev-1") == ("u", "eyJ.a.b")
    assert credentials(BrokerConfig(password_file=str(secret), username="u"), "dev-1") == ("u", "eyJ.a.b")
    assert credentials(BrokerConfig(), "dev-1") == ("", "")
    with pytest.raises(OSError, match="absent"):
        credentials(BrokerConfig(token_file=str(secret.with_name("absent"))), "dev-1")
