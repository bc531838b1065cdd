"""The attention that training uses on a processor gives what the model's own gives."""

import copy

import pytest
import torch
from shared.models import CONFIGS
from torch import nn
from transformers import AutoModel

from pruneonce.models import without_dropout
from pruneonce.training.attention import LONGEST, NAME, fast_attention, kept_attention

CHANGED = [name for name in CONFIGS if name != "mpnet"]  # MPNet has only its own, with relative positions


@pytest.mark.parametrize("architecture", CONFIGS)
def test_outputs_and_gradients_are_the_same(architecture):
    torch.manual_seed(0)
    model = AutoModel.from_config(CONFIGS[architecture]).eval()
    ids = torch.randint(5, 40, (4, 24))
    mask = torch.ones_like(ids)
    mask[1, 10:] = 0  # padding
    usual = model.config._attn_implementation

    def run():
        model.zero_grad()
        states = model(ids, attention_mask=mask).last_hidden_state[mask.bool()]
        states.square().sum().backward()
        return states, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    states, gradients = run()
    with fast_attention(model, 24):
        assert (model.config._attn_implementation == NAME) == (architecture in CHANGED)
        states_again, gradients_again = run()
    assert model.config._attn_implementation == usual
    assert torch.allclose(states, states_again, atol=1e-5)
    for one, other in zip(gradients, gradients_again, strict=True):
        assert torch.allclose(one, other, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("architecture", CHANGED)
def test_long_inputs_keep_the_fused_one_where_there_is_one(architecture, dropout):
    """With dropout PyTorch has none on a processor."""
    config = copy.deepcopy(CONFIGS[architecture])
    config.update(without_dropout(config, dropout))
    model = AutoModel.from_config(config)
    with fast_attention(model, LONGEST):
        assert model.config._attn_implementation == NAME
    with fast_attention(model, LONGEST + 1):
        assert model.config._attn_implementation == (NAME if dropout else "sdpa")


def test_dropout_drops_weights_in_training_alone():
    torch.manual_seed(0)
    module, (query, key, value) = nn.Module(), torch.randn(3, 2, 3, 20, 8)
    _, weights = kept_attention(module.train(), query, key, value, None, dropout=0.25)
    _, whole = kept_attention(module.eval(), query, key, value, None, dropout=0.25)
    dropped = weights == 0
    assert 0.15 < dropped.float().mean() < 0.35
    assert torch.allclose(weights[~dropped], whole[~dropped] / 0.75)
    assert torch.allclose(whole.sum(-1), torch.ones(2, 3, 20))
