"""What Home Assistant is told of a device, as values: entities that appear by themselves, and their states.

By the MQTT discovery of Home Assistant (https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery): a retained
document on `{prefix}/{component}/{node}/{object}/config` describes one entity, an empty one removes it. Each pipeline
has three: a sensor with the label that its newest result has on top, one with that label's score, and an event. All of
a device's belong to one device there, and are unavailable while `up/state` says offline.
"""

import math
import re
import zlib
from collections.abc import Sequence
from typing import Any

import msgspec

from edgeinfer.runtime.config import Section
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.sync.messages import topic

__all__ = ["HomeAssistantConfig", "discovery", "event_payload", "event_topic", "state_payload", "state_topic"]

_SPELLING = re.compile(r"[^A-Za-z0-9_-]")
_EVENT_TYPE = "event"


class HomeAssistantConfig(Section, frozen=True, kw_only=True):
    """With `enabled` the device appears in Home Assistant by MQTT discovery: for each pipeline its newest label, the
    score of it, and its events. `prefix` is the discovery prefix that is set there. The broker has to let the device
    write to `PREFIX/+/DEVICE/#` and `ei/v1/TENANT/d/DEVICE/ha/#`, and Home Assistant read both and `up/state`.
    Switched off again, the entities are removed at the next connection."""

    enabled: bool = False
    prefix: str = "homeassistant"

    def __post_init__(self) -> None:
        if not self.prefix or any(character in "+#\0" or character.isspace() for character in self.prefix):
            raise ValueError(f"prefix: expected the name of a topic, found {self.prefix!r}")


# Not below `up/`: that is the console's, which would have to read and refuse it.
def state_topic(tenant: str, device: str, pipeline: str) -> str:
    return topic(tenant, device, f"ha/{pipeline}")


def event_topic(tenant: str, device: str, pipeline: str) -> str:
    return topic(tenant, device, f"ha/{pipeline}/event")


def discovery(
    config: HomeAssistantConfig, *, tenant: str, device: str, pipeline: str, version: str
) -> dict[str, bytes]:
    """Topic to document, of the three entities of a pipeline."""
    node, name = _spelled(device), _spelled(pipeline)
    state, event = state_topic(tenant, device, pipeline), event_topic(tenant, device, pipeline)
    shared: dict[str, Any] = {
        "availability": [
            {
                "topic": topic(tenant, device, "up/state"),
                "value_template": "{{ 'online' if value_json.online else 'offline' }}",
            }
        ],
        "device": {
            "identifiers": [f"edgeinfer_{tenant}_{device}"],
            "name": device,
            "manufacturer": "edgeinfer",
            "model": "edge inference device",
            "sw_version": version,
        },
        "origin": {"name": "edgeinfer", "sw_version": version},
    }
    entities: dict[tuple[str, str], dict[str, Any]] = {
        ("sensor", "label"): {
            "name": f"{pipeline} label",
            "state_topic": state,
            "value_template": "{{ value_json.label }}",
            "json_attributes_topic": state,
            "icon": "mdi:tag-outline",
        },
        ("sensor", "score"): {
            "name": f"{pipeline} score",
            "state_topic": state,
            "value_template": "{{ value_json.score }}",
            "state_class": "measurement",
            "suggested_display_precision": 2,
            "icon": "mdi:percent-outline",
        },
        ("event", "event"): {
            "name": f"{pipeline} event",
            "state_topic": event,
            "event_types": [_EVENT_TYPE],
            "icon": "mdi:bell-ring-outline",
        },
    }
    documents = {}
    for (component, what), entity in entities.items():
        object_id = f"{name}_{what}"
        entity |= {"unique_id": f"edgeinfer_{tenant}_{device}_{pipeline}_{what}", "qos": 1, **shared}
        documents[f"{config.prefix}/{component}/{node}/{object_id}/config"] = msgspec.json.encode(entity)
    return documents


def state_payload(result: Result, labels: Sequence[str]) -> bytes:
    """The newest result of a pipeline: its top item's label and score, and how many items there are."""
    top = max(result.items, key=_order, default=None)
    return msgspec.json.encode(
        {
            "label": "none" if top is None else _label(result.kind, top.label, labels),
            "score": None if top is None else _number(top.score),
            "found": len(result.items),
            "kind": result.kind.name.lower(),
            "t_ns": result.t_ns,
        }
    )


def event_payload(result: Result, labels: Sequence[str]) -> bytes:
    """An event of a rule: what the rule says, and the labels of what it saw."""
    names = [_label(Kind.DETECTION, item.label, labels) for item in result.items[:8]]
    said = {key: value for key, value in (result.extra or {}).items() if key != "event_type"}
    return msgspec.json.encode({"event_type": _EVENT_TYPE, "t_ns": result.t_ns, "labels": names, **said})


def _label(kind: Kind, label: int, labels: Sequence[str]) -> str:
    """The name of an item's label; anomalies have two, whatever the package calls them."""
    if 0 <= label < len(labels):
        return labels[label][:200]
    if kind is Kind.ANOMALY:
        return "anomaly" if label else "normal"
    return str(label)


def _order(item: Any) -> float:
    return item.score if math.isfinite(item.score) else -math.inf


def _number(value: float) -> float | None:
    """JSON has no infinity."""
    return round(value, 4) if math.isfinite(value) else None


def _spelled(name: str) -> str:
    """A name as Home Assistant allows it in a topic: letters, digits, `_-`. Names that differ in other characters only
    stay apart."""
    spelled = _SPELLING.sub("_", name)
    return spelled if spelled == name else f"{spelled}_{zlib.crc32(name.encode()):08x}"
