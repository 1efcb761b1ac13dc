"""The denoising network: members in one product, and each with a draw of its own."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch

from detector import DenoisingAutoencoder
from detector.networks import INPUT_LIMIT, build

ROWS = torch.from_numpy(np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32))


def ensemble() -> DenoisingAutoencoder:
    torch.manual_seed(0)
    return DenoisingAutoencoder(6, 2, hidden=8, noise=(0.1, 0.3, 1.0))


def layer_by_layer(network: DenoisingAutoencoder, member: int, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Code and reconstruction of one member, one product after the other."""
    values, code = rows.clamp(-INPUT_LIMIT, INPUT_LIMIT), rows
    for layer, (weights, biases) in enumerate(zip(network.weights, network.biases, strict=True)):
        values = values @ weights[member].T + biases[member].T
        if layer == 2:
            code = values
        if layer not in (2, 5):
            values = values * torch.sigmoid(values)
    return code, values


def test_the_code_is_that_of_all_members_and_the_reconstruction_their_mean() -> None:
    network = ensemble()
    members = [layer_by_layer(network, member, ROWS) for member in range(3)]

    torch.testing.assert_close(network.encode(ROWS), torch.cat([code for code, _ in members], dim=1))
    torch.testing.assert_close(network(ROWS), torch.stack([rebuilt for _, rebuilt in members]).mean(dim=0))


def test_a_copy_and_a_network_that_takes_over_weights_rebuild_with_weights_of_their_own() -> None:
    network, other = ensemble(), DenoisingAutoencoder(6, 2, hidden=8, noise=(0.1, 0.3, 1.0))
    expected = network(ROWS)
    copied = deepcopy(network)
    other.load_state_dict(network.state_dict())

    with torch.no_grad():
        for weights in copied.weights:
            weights.zero_()

    assert not torch.equal(copied(ROWS), expected)
    assert torch.equal(network(ROWS), expected)
    assert torch.equal(other(ROWS), expected)


def test_members_begin_with_weights_of_their_own() -> None:
    rebuilt = [layer_by_layer(ensemble(), member, ROWS)[1] for member in range(3)]

    assert not torch.allclose(rebuilt[0], rebuilt[1], atol=1e-3)
    assert not torch.allclose(rebuilt[1], rebuilt[2], atol=1e-3)


def test_the_loss_of_shares_adds_up_to_that_of_the_batch() -> None:
    network = ensemble()

    def loss(share: slice) -> torch.Tensor:
        return network.training_loss(ROWS, torch.Generator().manual_seed(1), share)

    torch.testing.assert_close(loss(slice(0, 20)) + loss(slice(20, 64)), loss(slice(0, 64)))


def test_an_extreme_value_moves_no_reconstruction_beyond_that_of_the_limit() -> None:
    network, extreme, limit = ensemble(), ROWS.clone(), ROWS.clone()
    extreme[:, 2], limit[:, 2] = 1e6, INPUT_LIMIT

    assert torch.equal(network(extreme), network(limit))


def test_a_network_of_the_same_architecture_takes_its_weights() -> None:
    network = ensemble()
    other = build(network.architecture())

    other.load_state_dict(network.state_dict())

    assert torch.equal(other(ROWS), network(ROWS))
