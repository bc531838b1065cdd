"""Exports through the real engines: ONNX Runtime and OpenVINO give what torch gives, whatever the batch and the length.

Warnings are errors here as everywhere, so that a deprecated path of an exporter fails these tests.
"""

import json
import logging
from collections import Counter
from functools import cache

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from shared.exports import GRIDS, SHAPES, agrees, inputs, small, task_model
from shared.models import CONFIGS, make_model
from transformers import AutoConfig, AutoModel, AutoTokenizer

from pruneonce import quantization, stages
from pruneonce.engines import ENGINES, open_engine, open_file
from pruneonce.engines.openvino import core
from pruneonce.errors import UserError
from pruneonce.export import FORMATS, OPSETS, Options, to_onnx, write
from pruneonce.export.openvino import TOKENIZER, convert
from pruneonce.export.saturation import overflowing
from pruneonce.models import grid as grid_file
from pruneonce.models import load_as_saved
from pruneonce.system import packages


@pytest.fixture(autouse=True)
def _no_warnings_in_logs(caplog):
    """The exporter logs what others would warn of; PyTorch keeps its loggers apart from the root."""
    logger = logging.getLogger("torch.onnx")
    logger.addHandler(caplog.handler)
    yield
    logger.removeHandler(caplog.handler)
    assert not [found.getMessage() for found in caplog.get_records("call") if found.levelno >= logging.WARNING]


@pytest.fixture(scope="module")
def exported(tokenizer, tmp_path_factory):
    """`{format: folder}` of a task model, with the model itself under "model"; each is made once."""

    @cache
    def make(architecture, grid):
        folder = tmp_path_factory.mktemp(f"{architecture}-{grid}")
        model = task_model(folder / "model", architecture, tokenizer, grid)
        made = stages.export(model, folder / "onnx")
        convert(made / "model.onnx", folder / "openvino")
        return {name: folder / name for name in ("model", "onnx", "openvino")}

    return make


@pytest.mark.parametrize(
    ("architecture", "grid"), [*((architecture, "int8") for architecture in CONFIGS), *(("bert", g) for g in GRIDS)][1:]
)
def test_engines_agree_with_torch(architecture, grid, exported):
    """The same function up to rounding. An activation that lies halfway between two integers may go either way in
    another engine, which moves a few of the outputs of models as small as these by some percent."""
    folders = exported(architecture, grid)
    load = load_as_saved if grid == "fp32" else quantization.load
    model = load(folders["model"]).eval()
    most = 1e-5 if grid in ("fp32", "int4") else 0.1
    agrees(open_engine(folders["onnx"], "onnxruntime", exact=True), model, 1e-4, most)
    xml = folders["openvino"] / FORMATS["openvino"].file
    agrees(open_file(xml, "openvino", exact=True), model, 1e-4, most)
    # By default it takes bf16 and int8 where they are fast.
    agrees(open_file(xml, "openvino"), model, 0.05, 0.2)


@pytest.mark.parametrize(
    "architecture", [name if name == "bert" else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS]
)
def test_bare_encoders(architecture, tokenizer, tmp_path):
    torch.manual_seed(0)
    model = AutoModel.from_config(small(architecture)).eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    made = to_onnx(tmp_path / "model", tmp_path)
    convert(made, tmp_path)
    for engine in ("onnxruntime", "openvino"):
        agrees(open_file(tmp_path / FORMATS[ENGINES[engine].format].file, engine, exact=True), model, 1e-5, 1e-4)


@pytest.mark.parametrize(
    ("grid", "kind", "bits"), [("int8", "INT8", 8), ("int8-tensor", "INT8", 8), ("int4", "INT4", 4)]
)
def test_weights_are_stored_as_integers(grid, kind, bits, exported):
    folders = exported("bert", grid)
    linears = quantization.quantizable(load_as_saved(folders["model"]))
    made = onnx.load(folders["onnx"] / "model.onnx")
    onnx.checker.check_model(made, full_check=True)
    stored = {value.name: value for value in made.graph.initializer}
    integers = [value for value in stored.values() if value.data_type == onnx.TensorProto.DataType.Value(kind)]
    weights = [value for value in integers if len(value.dims) == 2 and "embeddings" not in value.name]
    assert len(weights) == len(linears)
    assert sum(len(value.raw_data) for value in weights) * 8 == bits * sum(x.weight.numel() for x in linears.values())
    assert not [value.name for value in stored.values() if value.data_type == 1 and value.name.endswith("dense.weight")]
    kinds = Counter(node.op_type for node in made.graph.node)
    # The query, key and value of the layer share one quantized input.
    assert kinds["QuantizeLinear"] == (0 if bits == 4 else len(linears) - 2)
    assert kinds["DequantizeLinear"] == kinds["QuantizeLinear"] + len(linears)
    zero_points = [n.input[2] for n in made.graph.node if n.op_type == "QuantizeLinear"]
    assert all(stored[name].data_type == onnx.TensorProto.UINT8 for name in zero_points)


def test_integers_and_zeros_are_those_of_the_model(exported):
    folders = exported("bert", "int8")
    layer = quantization.load(folders["model"]).bert.encoder.layer[0].intermediate.dense
    made = onnx.load(folders["onnx"] / "model.onnx")
    (stored,) = (value for value in made.graph.initializer if "layer.0.intermediate.dense.weight_int8" in value.name)
    integers = torch.from_numpy(onnx.numpy_helper.to_array(stored).copy()).T
    assert torch.equal(integers * layer.weight_scale[:, None], layer.weight)
    assert torch.equal(integers == 0, layer.weight == 0)


def looked_up_in_torch(folder, batch):
    """`{table: what it gave}` during a forward pass."""
    model = quantization.load(folder)
    tables = quantization.tables(model)
    names = {table: name for name, table in tables.items()}
    found = {}

    def keep(table, args, output):
        found[names[table]] = output.numpy()

    for table in tables.values():
        table.register_forward_hook(keep)
    with torch.no_grad():
        model(**batch)
    return found


def looked_up_in_onnxruntime(folder, batch):
    made = onnx.load(folder / "model.onnx")
    tables = {node.output[0]: node.input[0] for node in made.graph.node if node.op_type == "Gather"}
    names = {}
    for node in made.graph.node:
        for value in node.input:
            if node.op_type == "Mul" and tables.get(value, "").endswith(".weight_scale"):
                names[tables[value].removeprefix("model.").removesuffix(".weight_scale")] = node.output[0]
    made.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names.values())
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = {value.name for value in session.get_inputs()}
    values = session.run([*names.values()], {name: batch[name].numpy() for name in wanted})
    return dict(zip(names, values, strict=True))


def looked_up_in_openvino(folder, batch):
    model = core().read_model(folder / "openvino_model.xml")
    names = []
    for op in model.get_ops():
        for value in op.input_values():
            gather = value.get_node()
            if op.get_type_name() == "Multiply" and gather.get_type_name() == "Gather":
                names.append(gather.input_value(0).get_node().get_friendly_name())
                model.add_outputs(op.output(0))
    before = len(model.outputs) - len(names)
    compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    values = compiled({value.get_any_name(): batch[value.get_any_name()].numpy() for value in compiled.inputs})
    return {
        name.removeprefix("model.").removesuffix(".weight_scale"): values[before + number]
        for number, name in enumerate(names)
    }


@pytest.mark.parametrize("architecture", CONFIGS)
def test_lookups_are_exactly_those_of_torch(architecture, exported):
    folders = exported(architecture, "int8")
    wanted = open_engine(folders["onnx"], "onnxruntime").inputs
    for rows, length in SHAPES:
        batch = inputs(rows, length, wanted)
        expected = looked_up_in_torch(folders["model"], batch)
        assert expected
        for found in (
            looked_up_in_onnxruntime(folders["onnx"], batch),
            looked_up_in_openvino(folders["openvino"], batch),
        ):
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize(
    ("architecture", "grid"), [*((architecture, "int8") for architecture in CONFIGS), ("bert", "int4")]
)
def test_tables_are_stored_as_integers(architecture, grid, exported):
    """A file holds integers, scales, what stays fp32, and no fp32 copy of anything."""
    folders = exported(architecture, grid)
    model = quantization.load(folders["model"])
    made = onnx.load(folders["onnx"] / "model.onnx")
    stored = {value.name: value for value in made.graph.initializer}
    tables = quantization.tables(model)
    for name, table in tables.items():
        integers, scale = (
            onnx.numpy_helper.to_array(stored[f"model.{name}.{part}"]) for part in ("weight_int8", "weight_scale")
        )
        assert integers.dtype == np.int8
        np.testing.assert_array_equal(integers * scale, table.weight.detach())
    ops = core().read_model(folders["openvino"] / "openvino_model.xml").get_ops()
    kinds = {op.get_friendly_name(): op.get_element_type() for op in ops if op.get_type_name() == "Constant"}
    assert all(kinds[f"model.{name}.weight_int8"] == openvino.Type.i8 for name in tables)

    grids = grid_file.load(folders["model"])
    size = sum(
        parameter.numel() * grids[name].bits // 8 + grids[name].scale.nbytes if name in grids else parameter.nbytes
        for name, parameter in model.named_parameters()
    )
    most = (
        size + sum(buffer.nbytes for buffer in model.buffers()) + 1000
    )  # positions as a range, and numbers of the graph
    assert sum(len(value.raw_data) for value in stored.values()) < most
    assert (folders["openvino"] / "openvino_model.bin").stat().st_size < most


@pytest.mark.parametrize(
    ("name", "files"), [("onnx", {"model.onnx"}), ("openvino", {"openvino_model.xml", "openvino_model.bin"})]
)
def test_what_is_in_the_folder(name, files, exported, tokenizer, tmp_path):
    source = exported("bert", "int8")["model"]
    made = exported("bert", "int8")["onnx"] if name == "onnx" else stages.export(source, tmp_path / "ov", format=name)
    found = {file.name for file in made.iterdir()}
    assert files < found
    assert not {"model.safetensors", "quantization.safetensors", "begun.json"} & found
    assert AutoConfig.from_pretrained(made).id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert AutoTokenizer.from_pretrained(made)("the river")["input_ids"] == tokenizer("the river")["input_ids"]
    assert json.loads((made / "pruneonce.json").read_text())["settings"] == {"format": name}
    stages.export(source, made, format=name)  # already made
    with pytest.raises(UserError, match="already holds something else"):
        stages.export(source, made, format="onnx" if name == "openvino" else "openvino")


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_the_graph_names_its_dynamic_sizes_and_no_machine(architecture, exported):
    file = exported(architecture, "int8")["onnx"] / "model.onnx"
    for value in onnx.load(file).graph.input:
        assert [size.dim_param for size in value.type.tensor_type.shape.dim] == ["batch", "sequence"]
    assert b"site-packages" not in file.read_bytes()


def test_a_missing_extra_is_named(tokenizer, tmp_path, monkeypatch):
    folder = make_model(tmp_path / "model", tokenizer)
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"onnxscript.*pip install 'pruneonce\[onnx\]'"):
        stages.export(folder, tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_unknown_format(tmp_path):
    with pytest.raises(UserError, match="no format 'tflite'; there are onnx, openvino"):
        stages.export(tmp_path, tmp_path / "made", format="tflite")


ENCODER_INPUTS = inputs(3, 20, ("input_ids", "attention_mask"))


def outputs_of(file, engine="onnxruntime"):
    return open_file(file, engine, exact=True)(ENCODER_INPUTS)


@pytest.mark.parametrize(
    ("architecture", "grid"), [("bert", "int8"), pytest.param("modernbert", "fp32", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("opset", OPSETS[:-1])
def test_older_opsets_give_equal_outputs(opset, architecture, grid, exported, tmp_path):
    folders = exported(architecture, grid)
    file = to_onnx(folders["model"], tmp_path, Options(opset=opset))
    made = onnx.load(file)
    onnx.checker.check_model(made, full_check=True)
    assert [(one.domain, one.version) for one in made.opset_import] == [("", opset)]
    expected = outputs_of(folders["onnx"] / "model.onnx")
    found = outputs_of(file)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6 * np.abs(value).max())


def test_opsets_that_cannot_be(exported, tmp_path):
    with pytest.raises(UserError, match="opset 16 cannot be written; choose one of 17 to 21"):
        Options(opset=16)
    with pytest.raises(UserError, match="opset 20 has no 4-bit integers"):
        to_onnx(exported("bert", "int4")["model"], tmp_path, Options(opset=20))
    with pytest.raises(UserError, match="the format openvino takes no --opset"):
        stages.export(tmp_path, tmp_path / "made", format="openvino", options=Options(opset=17))


def test_fp16_halves_matrices_and_stays_near(exported, tmp_path):
    """The logits of these models are off by 0.2 % of the largest at most."""
    folders = exported("bert", "fp32")
    options = Options(fp16=True)
    expected = outputs_of(folders["onnx"] / "model.onnx")["logits"]
    for format, engine in (("onnx", "onnxruntime"), ("openvino", "openvino")):
        file = write(format, folders["model"], tmp_path, options)
        sizes = [(place / FORMATS[format].files[-1]).stat().st_size for place in (folders[format], tmp_path)]
        assert sizes[1] < 0.75 * sizes[0]
        found = outputs_of(file, engine)["logits"]
        assert found.dtype == np.float32
        assert 0 < np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()
    with pytest.raises(UserError, match="no fp32 matrices to store in 16 bits"):
        to_onnx(exported("bert", "int8")["model"], tmp_path, options)


def test_a_single_output(exported, tokenizer, tmp_path):
    torch.manual_seed(0)
    AutoModel.from_config(small("bert")).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    usual, single = (
        outputs_of(to_onnx(tmp_path / "model", tmp_path / str(one), Options(single_output=one)))
        for one in (False, True)
    )
    assert list(usual) == ["last_hidden_state", "pooler_output"]
    assert list(single) == ["last_hidden_state"]
    np.testing.assert_array_equal(single["last_hidden_state"], usual["last_hidden_state"])


def test_safe_int8(exported, tmp_path):
    source = exported("bert", "int8")["model"]
    made = stages.export(source, tmp_path / "safe", options=Options(safe=True))
    usual = json.loads((exported("bert", "int8")["onnx"] / "pruneonce.json").read_text())["saturation"]
    safe = json.loads((made / "pruneonce.json").read_text())
    assert safe["settings"] == {"format": "onnx", "safe": True}
    assert 0 < usual["overflowing"] <= usual["layers"] == safe["saturation"]["layers"]
    assert safe["saturation"]["overflowing"] == 0
    weights = [value for value in onnx.load(made / "model.onnx").graph.initializer if "weight_int8" in value.name]
    linears = [onnx.numpy_helper.to_array(value).T for value in weights if "embeddings" not in value.name]
    assert len(linears) == usual["layers"]
    assert not any(overflowing(integers).any() for integers in linears)
    with pytest.raises(UserError, match="no int8 layers; export it without --safe"):
        to_onnx(exported("bert", "fp32")["model"], tmp_path, Options(safe=True))


def test_openvino_has_int8_weights_as_its_kernel_for_zeros_takes_them(exported):
    """[out, in] and `transpose_b`, the layout of NNCF; the integers are those of the model, and results equal."""
    folders = exported("bert", "int8")
    model = core().read_model(folders["openvino"] / "openvino_model.xml")
    layouts = []
    for op in model.get_ordered_ops():
        if op.get_type_name() == "MatMul" and op.input_value(1).get_node().get_type_name() == "Multiply":
            constant = op.input_value(1).get_node().input_value(0).get_node().input_value(0).get_node()
            layouts.append((op.get_attributes()["transpose_b"], constant))
    linears = quantization.quantizable(quantization.load(folders["model"]))
    assert len(layouts) == len(linears)
    assert all(transposed for transposed, _ in layouts)
    stored = {constant.get_friendly_name().removeprefix("model."): constant.data for _, constant in layouts}
    for name, layer in linears.items():
        integers = quantization.quantize_weight(layer.weight, layer.weight_scale).numpy()
        np.testing.assert_array_equal(stored[f"{name}.weight_int8"], integers)
    before = core().compile_model(openvino.convert_model(folders["onnx"] / "model.onnx"), "CPU")
    batch = {name: value.numpy() for name, value in ENCODER_INPUTS.items()}
    found = core().compile_model(model, "CPU")(batch)["logits"]
    np.testing.assert_array_equal(found, before(batch)["logits"])


def test_a_plain_session_of_onnxruntime_keeps_its_fast_layer_norms(exported, tmp_path):
    """It is the fusion of `Add` and LayerNormalization that is slow, and it finds none in our graphs."""

    def kinds(model):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.log_severity_level = 3  # it warns that the file suits this machine alone
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)

    model = onnx.load(exported("bert", "int8")["onnx"] / "model.onnx")
    assert kinds(model)["LayerNormalization"] == 3
    for node in model.graph.node:
        if node.op_type == "Sum":
            node.op_type = "Add"
    assert kinds(model)["SkipLayerNormalization"] == 2, "the fusion is still there to be kept away"


def test_the_tokenizer_as_an_openvino_model(exported, tokenizer, tmp_path):
    tokenizers = pytest.importorskip("openvino_tokenizers", reason="openvino-tokenizers is not installed")
    core().add_extension(str(tokenizers._ext_path))
    made = stages.export(
        exported("bert", "fp32")["model"], tmp_path / "made", format="openvino", options=Options(tokenizer=True)
    )
    assert set(TOKENIZER) < set(json.loads((made / "pruneonce.json").read_text())["files"])
    found = core().compile_model(made / TOKENIZER[0], "CPU")(["the river"])
    assert found["input_ids"].tolist() == [tokenizer("the river")["input_ids"]]


@pytest.mark.slow
def test_openvino_genai_loads_the_export(tokenizer, tmp_path):
    genai = pytest.importorskip("openvino_genai", reason="openvino-genai is not installed")
    pytest.importorskip("openvino_tokenizers", reason="openvino-tokenizers is not installed")
    torch.manual_seed(0)
    AutoModel.from_config(small("bert")).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    options = Options(single_output=True, tokenizer=True)
    made = stages.export(tmp_path / "model", tmp_path / "made", format="openvino", options=options)
    assert len(genai.TextEmbeddingPipeline(str(made), "CPU").embed_query("the river")) == small("bert").hidden_size
