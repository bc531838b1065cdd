"""What is pruned in each architecture, counted by hand."""

import pytest
import torch
from shared.models import CONFIGS
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, GPT2Config

from pruneonce.errors import UserError
from pruneonce.models.architectures import describe, prunable_weights
from pruneonce.sparsity import ARCHITECTURES, magnitude_masks

# Linear weights in a layer, and whether there is a pooler: attention's four and the feed-forward's two; ModernBERT has
# Wqkv, Wo, Wi, Wo.
EXPECTED = {
    "bert": (6, True),
    "distilbert": (6, False),
    "electra": (6, False),
    "modernbert": (4, False),
    "mpnet": (6, True),
    "roberta": (6, True),
}


def test_every_supported_architecture_is_tested():
    assert set(ARCHITECTURES) == set(EXPECTED) == set(CONFIGS)


@pytest.mark.parametrize("architecture", EXPECTED)
def test_the_linear_weights_of_the_layers_and_the_pooler(architecture):
    per_layer, pooler = EXPECTED[architecture]
    model = AutoModel.from_config(CONFIGS[architecture])
    weights = prunable_weights(model)
    assert len(weights) == 2 * per_layer + pooler
    parameters = dict(model.named_parameters())
    assert all(parameters[name] is weight for name, weight in weights.items())
    assert all(weight.dim() == 2 for weight in weights.values())


@pytest.mark.parametrize("architecture", EXPECTED)
@pytest.mark.parametrize("auto", [AutoModelForMaskedLM, AutoModelForSequenceClassification])
def test_heads_and_embeddings_stay_dense(architecture, auto):
    model = auto.from_config(CONFIGS[architecture])
    bare = prunable_weights(AutoModel.from_config(CONFIGS[architecture]))
    found = prunable_weights(model)
    assert set(found) <= set(bare), "the same names under any head"
    pruned = {id(weight) for weight in found.values()}
    for name, parameter in model.named_parameters():
        inside_layer = ".layer." in name or ".layers." in name
        outside = not inside_layer and "pooler" not in name
        if outside or parameter.dim() == 1:
            assert id(parameter) not in pruned, name


def test_distilbert_vocabulary_head_and_tied_embeddings_stay_dense():
    model = AutoModelForMaskedLM.from_config(CONFIGS["distilbert"])
    model.tie_weights()
    assert model.vocab_projector.weight is model.distilbert.embeddings.word_embeddings.weight
    pruned = {id(weight) for weight in prunable_weights(model).values()}
    assert id(model.vocab_transform.weight) not in pruned
    assert id(model.vocab_projector.weight) not in pruned


@pytest.mark.parametrize("architecture", EXPECTED)
def test_masks_of_the_encoder_fit_a_classifier(architecture):
    encoder = AutoModel.from_config(CONFIGS[architecture])
    masks = magnitude_masks(prunable_weights(encoder), 0.9)
    classifier = prunable_weights(AutoModelForSequenceClassification.from_config(CONFIGS[architecture]))
    assert all(masks[name].shape == weight.shape for name, weight in classifier.items())


def test_an_unsupported_architecture_is_named():
    model = AutoModel.from_config(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=10))
    with pytest.raises(UserError, match=r"'gpt2' is not supported; these are: bert, .*roberta"):
        prunable_weights(model)


def test_description_accounts_for_every_parameter():
    model = AutoModelForMaskedLM.from_config(CONFIGS["bert"])
    text = describe(model)
    assert "12 Linear weights" in text
    assert "embeddings" in text
    assert torch.is_tensor(next(iter(prunable_weights(model).values())))
