"""Decoders with a cache: what is made up for them runs, and so does every shape of their profile."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import precision_planner as pp
from precision_planner.model import Model
from precision_planner.model.session import Session
from precision_planner.model.synthesis import synthesise
from tests.gates import assert_gates
from tests.model_inputs.decoders import decoder, merged

SPELLINGS: dict[str, dict[str, Any]] = {
    "optimum": {},
    "one token a call": {"new": 1, "total": "past_sequence_length + 1"},
    "a name for the total": {"total": "total_sequence_length"},
    "torch.export": {"past": "s44", "new": "s70", "total": "s44 + s70", "batch": "s77"},
    "names that say nothing": {"past": "unk__1", "new": "unk__2", "total": "unk__3", "batch": "unk__0"},
    "no names": {"past": None, "new": None, "total": None, "batch": None},
    "empty for good": {"past": 0, "new": 8, "total": 8, "batch": 1},
    "encoder and decoder": {"encoder": "encoder_sequence_length"},
    "encoder without a name": {"encoder": None, "past": None, "new": None, "total": None},
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_masks_cover_past_and_new_keys(spelling: dict[str, Any]) -> None:
    if "encoder" in spelling and spelling["encoder"] is None:
        spelling = {**spelling, "encoder": "keys_of_the_encoder"}
    source = Model.load(decoder(**spelling))
    with Session(source) as session:
        for batch in synthesise(source):
            past = next(
                a.shape[2] for n, a in batch.items() if n.endswith("key") and "encoder." not in n.split("0.")[1]
            )
            new = batch["input_ids"].shape[1]
            assert batch["attention_mask"].shape[1] == past + new
            assert batch["position_ids"][0].tolist() == list(range(past, past + new))
            answers = session.run(batch)
            assert np.isfinite(answers["logits"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optimum", "no names", "one token a call", "encoder and decoder"])
def test_profiles_are_consistent_and_run(name: str) -> None:
    planned = pp.plan(decoder(**SPELLINGS[name]), policy="rules")
    assert planned.plan.verdict["grade"] == "FINE"
    profiles = planned.plan.profiles
    cache = "past_key_values.0.decoder.key" if "encoder" in SPELLINGS[name] else "past_key_values.0.key"
    for kind in ("min", "opt", "max"):
        shapes = {key: getattr(profile, kind) for key, profile in profiles.items()}
        new = shapes.get("input_ids", (1, 1))[1]
        assert shapes["attention_mask"][1] == shapes[cache][2] + new, kind
        assert shapes.get("position_ids", (1, new))[1] == new
    assert profiles.get("input_ids") is None or profiles["input_ids"].min[1] == 1, "a token a call"


@pytest.mark.slow
def test_given_shapes_carry_to_what_follows_from_them() -> None:
    cache = {f"past_key_values.0.{key}": [2, 2, 40, 8] for key in ("key", "value")}
    planned = pp.plan(
        decoder(), policy="rules", min_shapes={"input_ids": [1, 1]}, opt_shapes={"input_ids": [2, 1], **cache},
        max_shapes={"input_ids": [2, 30], **{key: [2, 2, 90, 8] for key in cache}},
    )  # fmt: skip
    mask, places = planned.plan.profiles["attention_mask"], planned.plan.profiles["position_ids"]
    assert (mask.min, mask.opt, mask.max) == ((1, 1), (2, 41), (2, 120))
    assert (places.min, places.opt, places.max) == ((1, 1), (2, 1), (2, 30))


@pytest.mark.slow
def test_a_merged_decoder_is_planned_in_both_branches() -> None:
    source = merged()
    used = [bool(batch["use_cache_branch"][0]) for batch in synthesise(Model.load(source))]
    assert used == [False, True, True]
    planned = pp.plan(source, policy="rules")
    assert planned.plan.verdict["grade"] == "FINE"
    assert planned.plan.counts["fp16"] > 10
    typed = planned.model.to_proto()
    onnx.checker.check_model(typed, full_check=True)
    assert [out.name for out in typed.graph.output] == [out.name for out in source.graph.output]


def test_names_of_bodies_are_made_unique_where_they_are_typed() -> None:
    typed = pp.rewrite(merged(), verify=False).model
    outer = {name for node in typed.graph.node for name in node.output}
    for node in typed.graph.node:
        for attribute in node.attribute:
            inner = {name for each in attribute.g.node for name in each.output}
            assert not inner & outer
    assert_gates(typed)
