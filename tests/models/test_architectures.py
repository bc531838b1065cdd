"""What is pruned in each architecture, counted by hand."""

import pytest
import torch
from shared.models import CONFIGS
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, GPT2Config

from benchmarks.architectures import tiny_config
from pruneonce.errors import UserError
from pruneonce.losses.vocabulary import without_decoder
from pruneonce.models.architectures import (
    attention_inputs,
    check_length,
    check_supported,
    describe,
    embedding_tables,
    empty_encoder,
    freeze_embeddings,
    prunable_weights,
)
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


# Linear weights in a layer of the others: six as in BERT; ConvBERT's convolution has two more Linears, DeBERTa makes
# queries, keys and values in one, gated feed-forward networks have three, and MobileBERT has bottlenecks.
SIX = ("camembert", "data2vec-text", "deberta-v2", "ernie", "esm", "jina_embeddings_v3", "megatron-bert", "rembert")
COUNTS = {
    **dict.fromkeys((*SIX, "roberta-prelayernorm", "roformer", "xlm-roberta"), 6),
    **dict.fromkeys(("eurobert", "gte", "nomic_bert"), 7),
    **{"convbert": 8, "deberta": 4},
    "mobilebert": None,
}


@pytest.mark.parametrize("model_type", COUNTS)
def test_the_linear_weights_of_the_other_architectures(model_type):
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(tiny_config(model_type))
    weights = prunable_weights(model)
    layers = {name for name in weights if "pooler" not in name}
    if COUNTS[model_type] is not None:
        assert len(layers) == 2 * COUNTS[model_type]
    embeddings = model.get_input_embeddings().weight
    assert embeddings.requires_grad
    freeze_embeddings(model)
    assert not embeddings.requires_grad
    assert any(table.weight is embeddings for table in embedding_tables(model).values())
    assert all(weight.requires_grad for weight in weights.values())


@pytest.mark.parametrize("model_type", ["mobilebert", "esm", "eurobert", "convbert", "deberta"])
def test_the_vocabulary_head_is_known(model_type):
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(tiny_config(model_type)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
    ids = torch.randint(5, 40, (2, 9))
    with torch.no_grad():
        logits = model(ids).logits
        with without_decoder(model) as (weight, bias):
            hidden = model(ids).logits
        assert torch.allclose(torch.nn.functional.linear(hidden, weight, bias), logits, atol=1e-4)
        assert torch.equal(model(ids).logits, logits)


@pytest.mark.parametrize("model_type", ["layoutlm", "yoso", "big_bird", "xlm"])
def test_other_types_are_known_by_their_module_tree(model_type):
    weights = prunable_weights(empty_encoder(tiny_config(model_type)))
    assert len([name for name in weights if "pooler" not in name]) == 12


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("albert", "all its layers are one"),
        ("fnet", "takes no `attention_mask`"),
        ("bart", "it has a decoder"),
        ("ibert", "no stack with Linears"),
        ("modernvbert", "several stacks: .*; say which .* `roles: {layers: text_model.layers}`"),
        ("xmod", "adapters of their own for each language"),
    ],
)
def test_what_cannot_be_pruned_is_refused_with_the_reason(model_type, reason):
    with pytest.raises(UserError, match=reason):
        check_supported(tiny_config(model_type))


@pytest.mark.parametrize("model_type", ["xlm-roberta", "camembert", "data2vec-text", "roberta-prelayernorm"])
def test_positions_count_from_the_padding_token_on(model_type, tmp_path):
    tiny_config(model_type).save_pretrained(tmp_path)
    check_length(63, tmp_path, "max_length")
    with pytest.raises(UserError, match=r"`max_length` is 64, but .* takes at most 63 tokens"):
        check_length(64, tmp_path, "max_length")


def test_relations_that_are_not_known_are_refused():
    with pytest.raises(UserError, match="'deberta' are not known"):
        attention_inputs(empty_encoder(tiny_config("deberta")))
    with pytest.raises(UserError, match="4 heads of queries and 2 of keys"):
        attention_inputs(empty_encoder(tiny_config("eurobert")))


def test_every_supported_architecture_is_tested():
    assert set(EXPECTED) == set(CONFIGS)
    assert set(EXPECTED) | set(COUNTS) == set(ARCHITECTURES)


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
    with pytest.raises(UserError, match=r"'gpt2' is not supported: .*; these are: bert, .*roberta"):
        prunable_weights(model)


def test_description_accounts_for_every_parameter():
    model = AutoModelForMaskedLM.from_config(CONFIGS["bert"])
    text = describe(model)
    assert "12 Linear weights" in text
    assert "embeddings" in text
    assert torch.is_tensor(next(iter(prunable_weights(model).values())))
