"""bench/scale_model.py: the model against the simulation, without a clock, and its table against docs/scale.md."""

from __future__ import annotations

import sys

import pytest

from conftest import CHECKOUT

sys.path.append(str(CHECKOUT / "bench"))
import scale_model as model

CASES = [(kind, matching, agents) for kind in ("live", "durable") for matching in (1, 5) for agents in (0, 1, 2, 3)]


@pytest.mark.parametrize(("kind", "matching", "agents"), CASES)
@pytest.mark.parametrize("cores", [1, 2, 8])
def test_what_the_model_says_the_simulation_finds(kind: str, matching: int, agents: int, cores: int) -> None:
    simulated = model.simulate(kind, matching, agents, cores=cores, events=6_000)
    assert simulated.rate == pytest.approx(model.at_most(cores, kind, matching, agents), rel=model.TOLERANCE)
    assert simulated.busiest <= 1.0


def test_more_agents_are_faster_until_the_queues_are_shared_out() -> None:
    """Four ingress queues: a fifth agent has nothing to do, and with 16 of them it has."""
    rates = [model.at_most(64, "live", 1, agents) for agents in (1, 2, 3)]
    assert rates[0] < rates[1]
    assert max(model.shares(5, 4)) >= 0.25
    assert min(model.shares(5, 4)) == 0.0
    assert model.at_most(64, "live", 1, 5, ingress=32) > model.at_most(64, "live", 1, 5, ingress=4)


@pytest.mark.parametrize("agents", [1, 2, 3, 6, 12])
@pytest.mark.parametrize("ingress", [1, 4, 64])
def test_every_slot_has_one_agent(agents: int, ingress: int) -> None:
    parts = model.shares(agents, ingress)
    assert len(parts) == agents
    assert sum(parts) == pytest.approx(1.0)


def test_a_load_that_is_too_much_for_any_number_of_agents_is_said_to_be() -> None:
    """A million leases of a minute: every agent reads every renewal."""
    assert model.size(model.Load(1_000, 1_000, 1)).agents == 1
    assert model.size(model.Load(100_000, 1_000, 1)).possible
    assert not model.size(model.Load(1_000, 10_000_000, 1)).possible
    assert model.size(model.Load(1_000, 10_000_000, 1, "durable")).possible


def test_replicas_cost_the_broker_and_nobody_else() -> None:
    one, three = (model.size(model.Load(10_000, 1_000, 2, "durable", replicas)) for replicas in (1, 3))
    assert one.agents == three.agents
    assert three.broker_cores == pytest.approx(3 * one.broker_cores)


def test_the_page_shows_this_table() -> None:
    assert model.costs_table() in (CHECKOUT / "docs" / "scale.md").read_text("utf-8")
