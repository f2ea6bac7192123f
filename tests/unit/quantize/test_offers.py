"""What is offered to the search."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.offers import Material, gather, offers_of
from tiny_tasks import Calibrating


@pytest.fixture
def material(make_model: Callable[..., Path]) -> Material:
    calibration = Calibrating(np.zeros((2, 1, 8, 8), np.float32))
    reference = Candidate("onnx-fp32", "onnx", "fp32", make_model(), quantized=False)
    return gather(reference, calibration, few=calibration)


def test_ids_are_unique_and_those_of_their_schemes(material: Material) -> None:
    offers = offers_of([material], engines=["onnx"])
    assert len({offer.id for offer in offers}) == len(offers) == len(material.schemes)
    assert all(offer.engine == "onnx" for offer in offers)


def test_forms_that_behave_better_name_what_they_mend_and_wait(material: Material) -> None:
    offers = {offer.id: offer for offer in offers_of([material], engines=["onnx"])}
    mending = [offer for offer in offers.values() if offer.mends]
    assert mending
    assert all(offer.mends in offers and offer.rung >= 1 for offer in mending)


def test_pruned_schemes_wait_for_the_pruned_float_model(material: Material) -> None:
    offers = {offer.id: offer for offer in offers_of([material], engines=["onnx"])}
    assert offers["onnx-fp32-pruned"].after == ""
    pruned = [offer for name, offer in offers.items() if name.endswith("-pruned") and name != "onnx-fp32-pruned"]
    assert pruned
    assert {offer.after for offer in pruned} == {"onnx-fp32-pruned"}
    assert all(offer.prunes in offers for offer in pruned)


def test_every_scheme_with_every_switch_is_offered(material: Material) -> None:
    offers = {offer.id: offer for offer in offers_of([material], engines=["onnx"])}
    static = [name for name, scheme in material.schemes.items() if scheme.calibrates and "-pruned" not in name]
    plain = [name for name in static if not name.endswith(("-cle", "-bc"))]
    assert len(plain) > 5
    for name in plain:
        for switches in ("", "-pruned", "-cle", "-bc", "-cle-bc", "-pruned-cle", "-pruned-bc", "-pruned-cle-bc"):
            assert f"{name}{switches}" in offers
    assert offers["onnx-s8s8-pruned-cle-bc"].rung == 2, "an exhaustive search alone looks at these"
    assert offers["onnx-u8s8-cle-bc"].rung == 1


def test_what_is_like_another_one_names_one_that_there_is(material: Material) -> None:
    offers = {offer.id: offer for offer in offers_of([material], engines=["onnx"])}
    liking = [offer for offer in offers.values() if offer.like]
    assert liking
    assert all(offer.like in {*offers, "onnx-fp32"} for offer in liking)


def test_an_engine_that_the_target_lacks_is_not_offered(material: Material) -> None:
    assert offers_of([material], engines=["litert"]) == []


def test_a_model_that_cannot_be_quantized_has_no_schemes(material: Material) -> None:
    float_model = replace(material.float_model)
    empty = gather(float_model, material.calibration, few=material.few, unquantizable=True)
    assert offers_of([empty], engines=["onnx"]) == []
    assert tuple(empty.layers()) == ()
