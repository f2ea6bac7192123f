"""What Home Assistant is told, as documents: the keys that its MQTT discovery requires, and valid JSON."""

import json
import math
import re

import pytest

from edgeinfer.runtime.results import Item, Kind, Result
from edgeinfer.sync.homeassistant import (
    HomeAssistantConfig,
    discovery,
    event_payload,
    event_topic,
    state_payload,
    state_topic,
)

# Home Assistant reads `<prefix>/<component>/[<node>/]<object>/config`; node and object are of these characters.
TOPIC = re.compile(r"homeassistant/(sensor|event)/[A-Za-z0-9_-]+/[A-Za-z0-9_-]+/config")


def entities(pipeline: str = "door") -> dict[str, dict[str, object]]:
    documents = discovery(
        HomeAssistantConfig(enabled=True), tenant="default", device="dev-1", pipeline=pipeline, version="1.0"
    )
    return {name: json.loads(body) for name, body in documents.items()}


def test_a_pipeline_has_three_entities_of_one_device() -> None:
    found = entities()
    assert set(found) == {
        "homeassistant/sensor/dev-1/door_label/config",
        "homeassistant/sensor/dev-1/door_score/config",
        "homeassistant/event/dev-1/door_event/config",
    }
    for name, entity in found.items():
        assert TOPIC.fullmatch(name)
        assert entity["availability"] == [
            {
                "topic": "ei/v1/default/d/dev-1/up/state",
                "value_template": "{{ 'online' if value_json.online else 'offline' }}",
            }
        ]
        device = entity["device"]
        assert isinstance(device, dict)
        assert (device["identifiers"], device["name"]) == (["edgeinfer_default_dev-1"], "dev-1")
    assert len({str(entity["unique_id"]) for entity in found.values()}) == 3
    assert found["homeassistant/event/dev-1/door_event/config"]["event_types"] == ["event"]
    assert {str(entity["state_topic"]) for entity in found.values()} == {
        state_topic("default", "dev-1", "door"),
        event_topic("default", "dev-1", "door"),
    }


def test_names_that_home_assistant_does_not_take_are_spelled_and_stay_apart() -> None:
    dotted, under = entities("a.b"), entities("a_b")
    assert not set(dotted) & set(under)
    assert all(TOPIC.fullmatch(name) for name in (*dotted, *under))


def test_the_state_is_the_top_item_with_its_name() -> None:
    result = Result(Kind.DETECTION, 5, 1, items=(Item(0, 0.4), Item(1, 0.912345), Item(0, math.nan)))
    assert json.loads(state_payload(result, ("cat", "dog"))) == {
        "label": "dog",
        "score": 0.9123,
        "found": 3,
        "kind": "detection",
        "t_ns": 5,
    }


@pytest.mark.parametrize(
    ("result", "label", "score"),
    [
        (Result(Kind.DETECTION, 5), "none", None),
        (Result(Kind.ANOMALY, 5, items=(Item(1, 3.5),)), "anomaly", 3.5),
        (Result(Kind.ANOMALY, 5, items=(Item(0, math.inf),)), "normal", None),
        (Result(Kind.CLASSIFICATION, 5, items=(Item(7, 0.5),)), "7", 0.5),
    ],
)
def test_what_has_no_name_or_no_number(result: Result, label: str, score: float | None) -> None:
    state = json.loads(state_payload(result, ()))
    assert (state["label"], state["score"]) == (label, score)


def test_an_event_says_what_its_rule_says() -> None:
    extra: dict[str, int | float | str] = {"rule": "entered", "state": "begin", "count": 1, "event_type": "forged"}
    event = json.loads(event_payload(Result(Kind.EVENT, 9, 1, items=(Item(1, 0.5),), extra=extra), ("cat", "dog")))
    assert event == {
        "event_type": "event",
        "t_ns": 9,
        "labels": ["dog"],
        "rule": "entered",
        "state": "begin",
        "count": 1,
    }


@pytest.mark.parametrize("prefix", ["", "a b", "a/+", "#"])
def test_a_prefix_is_the_name_of_a_topic(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        HomeAssistantConfig(prefix=prefix)
