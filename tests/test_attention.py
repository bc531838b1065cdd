"""The attention that training uses on a processor gives what the model's own gives."""

import pytest
import torch
from conftest import CONFIGS
from transformers import AutoModel

from pruneonce.attention import LONGEST, NAME, fast_attention

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


def test_long_inputs_keep_the_fused_one():
    model = AutoModel.from_config(CONFIGS["bert"])
    with fast_attention(model, LONGEST + 1):
        assert model.config._attn_implementation == "sdpa"
