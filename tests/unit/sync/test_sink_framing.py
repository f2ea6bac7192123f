"""Messages in a row: what goes in comes out, however it is cut; and what is none is refused within bounds."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.config import parse_config
from edgeinfer.runtime.errors import ConfigError, MessageError
from edgeinfer.sync.messages import MAX_CHUNK_BYTES
from edgeinfer.sync.settings import SyncConfig
from edgeinfer.sync.sinks.framing import END, Frame, Frames, encode_frames
from edgeinfer.sync.sinks.settings import HttpSinkConfig, KafkaSinkConfig, MqttSinkConfig

NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=255)
FRAMES = st.lists(st.builds(Frame, NAMES, st.binary(min_size=1, max_size=300)), max_size=8)


@given(FRAMES, st.lists(st.integers(min_value=0, max_value=3000), max_size=6))
def test_frames_come_out_however_they_are_cut(frames: list[Frame], cuts: list[int]) -> None:
    raw = b"".join(encode_frames(frames))
    places = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    parser = Frames()
    found = [frame for low, high in pairwise(places) for frame in parser.feed(raw[low:high])]
    parser.finish()
    assert found == frames


@given(FRAMES, st.binary(max_size=50))
def test_the_end_is_an_end_and_what_follows_is_kept(frames: list[Frame], rest: bytes) -> None:
    parser = Frames()
    assert list(parser.feed(b"".join(encode_frames(frames)) + END + rest)) == frames
    assert (parser.ended, parser.rest) == (True, rest)
    assert list(parser.feed(b"more")) == []


@given(FRAMES, st.data())
def test_a_row_that_is_cut_off_is_said(frames: list[Frame], data: st.DataObject) -> None:
    raw = b"".join(encode_frames(frames))
    end = data.draw(st.integers(min_value=0, max_value=max(0, len(raw) - 1)))
    parser = Frames()
    whole = list(parser.feed(raw[:end]))
    assert whole == frames[: len(whole)]
    if b"".join(encode_frames(whole)) != raw[:end]:
        with pytest.raises(MessageError, match="cut off"):
            parser.finish()


@given(st.binary(max_size=2000))
def test_anything_is_frames_or_a_message_error(raw: bytes) -> None:
    parser = Frames()
    try:
        list(parser.feed(raw))
        parser.finish()
    except MessageError:
        pass


@pytest.mark.parametrize("size", [MAX_CHUNK_BYTES + 1, 1 << 31, (1 << 32) - 1])
def test_a_frame_that_claims_too_much_is_refused_at_once(size: int) -> None:
    parser = Frames()
    with pytest.raises(MessageError, match="1 to"):
        list(parser.feed(size.to_bytes(4, "big") + b"\x01a"))


def sink_of(text: str) -> object:
    return parse_config(f'device = "a"\n[sink]\n{text}', SyncConfig).sink


def test_where_results_go_is_chosen_by_kind() -> None:
    assert parse_config('device = "a"', SyncConfig).sink == MqttSinkConfig()
    assert sink_of('kind = "mqtt"') == MqttSinkConfig()
    assert isinstance(sink_of('kind = "http"\nurl = "https://a.example/x"'), HttpSinkConfig)
    assert isinstance(sink_of('kind = "kafka"\nbrokers = ["a:9092"]\ntopic = "t"'), KafkaSinkConfig)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('kind = "htp"', "did you mean 'http'"),
        ('kind = "http"\nurll = "https://a.example"', "did you mean 'url'"),
        ('kind = "mqtt"\nurl = "https://a.example"', "sink.url"),
        ('kind = "http"', "url"),
        ('kind = "http"\nurl = "ftp://a.example"', "expected http"),
        ('kind = "http"\nurl = "https://"', "expected http"),
        ('kind = "http"\nurl = "https://user:hunter2@a.example"', "token_file"),
        ('kind = "http"\nurl = "ftp://user:hunter2@a.example"', "token_file"),
        ('kind = "http"\nurl = "https://a.example:99999"', "range"),
        ('kind = "http"\nurl = "https://a.example/a b"', "printable"),
        ('kind = "http"\nurl = "https://a.example"\ntls_cert = "c"', "together"),
        ('kind = "http"\nurl = "https://a.example"\ntimeout_s = 0', "timeout_s"),
        ('kind = "http"\nurl = "https://a.example"\nreceiver = "any"', "receiver"),
        ('kind = "kafka"\nbrokers = []\ntopic = "t"', "HOST:PORT"),
        ('kind = "kafka"\nbrokers = ["a"]\ntopic = "t"', "HOST:PORT"),
        ('kind = "kafka"\nbrokers = ["a:1"]\ntopic = "a b"', "topic"),
        ('kind = "kafka"\nbrokers = ["a:1"]\ntopic = "t"\nusername = "u"', "together"),
    ],
)
def test_what_cannot_be_is_said_when_the_file_is_read(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sink_of(text)
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)
