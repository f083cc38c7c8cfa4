from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.losses.relations import sample_graph
from tests.helpers import make_layer
from tests.layers.pair_losses import check_pair_loss, loss_of

BODY = 'type: "SampleGraphLoss"'


@pytest.mark.parametrize("settings", ["", "neighbours: 2", "node_weight: 0", "edge_weight: 0"])
def test_sample_graph_loss_holds_what_all_do(settings):
    check_pair_loss(f"{BODY} sample_graph_loss_param {{ {settings} }}", (5, 3), (5, 3))


def test_sample_graph_loss_takes_its_formula_from_the_parameters():
    torch.manual_seed(0)
    s, t = torch.randn(6, 3), torch.randn(6, 3)
    settings = "neighbours: 2 node_weight: 0.5 edge_weight: 3"
    loss = loss_of(f"{BODY} sample_graph_loss_param {{ {settings} }}", s, t)
    assert float(loss) == float(sample_graph(s, t, neighbours=2, node_weight=0.5, edge_weight=3))


def test_sample_graph_loss_of_edges_alone_takes_embeddings_of_any_size():
    torch.manual_seed(0)
    s, t = torch.randn(6, 3), torch.randn(6, 5, 1, 1)
    loss = loss_of(f"{BODY} sample_graph_loss_param {{ node_weight: 0 }}", s, t)
    assert 0 < float(loss) < 4


@pytest.mark.parametrize(
    ("teacher", "settings", "words"),
    [
        ((6, 5), "", "nodes .* same number of values. Put an InnerProduct .* node_weight: 0"),
        ((6, 3), "node_weight: -1", "must be 0 or more. Received: node_weight=-1"),
        ((6, 3), "edge_weight: inf", "must be 0 or more. .*edge_weight=inf"),
    ],
)
def test_sample_graph_loss_that_cannot_be_is_reported(teacher, settings, words):
    with pytest.raises(NetError, match=words):
        make_layer(f"{BODY} sample_graph_loss_param {{ {settings} }}", (6, 3), teacher)
