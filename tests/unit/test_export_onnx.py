"""Exported graphs: opset, batch, names and places are as promised, and a graph that is not is never put in place."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from engines.base import EngineError
from engines.select import ENGINES, open_engine
from export import ExportError, to_onnx, verify_all
from export.__main__ import main
from export.cases import Case
from export.verify import verify
from sgmsnet.checkpoint import ModelFiles, find, load_network, save
from sgmsnet.formats import tensor_places
from sgmsnet.imaging import Geometry


@pytest.fixture
def files(tiny_model: Path, tmp_path: Path) -> ModelFiles:
    """A copy of the tiny model, which a test may change."""
    for suffix in (".safetensors", ".onnx", ".reference.npz"):
        shutil.copy(tiny_model.with_suffix(suffix), tmp_path)
    return find(tmp_path / tiny_model.name)


def _run(graph: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


@pytest.mark.parametrize("opset", [17, 20])
def test_a_self_contained_graph_is_as_promised(
    files: ModelFiles, tmp_path: Path, example_images: np.ndarray, opset: int
) -> None:
    graph = to_onnx.export(files, tmp_path / "whole.onnx", opset=opset)
    alone = shutil.move(graph, tmp_path.joinpath("elsewhere").with_suffix(".onnx"))
    model = onnx.load(alone)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    (images,) = model.graph.input
    dims = images.type.tensor_type.shape.dim
    assert (images.name, images.type.tensor_type.elem_type) == ("images", onnx.TensorProto.UINT8)
    assert dims[0].dim_param
    assert [entry.dim_value for entry in dims[1:]] == [1, 64, 64]
    assert tuple(output.name for output in model.graph.output) == files.config.outputs
    for output in model.graph.output:
        free, *sides = output.type.tensor_type.shape.dim
        assert free.dim_param, output.name
        assert tuple(side.dim_value for side in sides) == files.config.output_shapes[output.name], output.name
    outputs = _run(alone, example_images)
    with torch.inference_mode():
        expected = load_network(files)(torch.from_numpy(example_images))
    for name, value in outputs.items():
        np.testing.assert_allclose(value, expected[name].numpy(), rtol=0, atol=1e-3, err_msg=name)


def test_without_attention_logits_and_embedding_stay(
    files: ModelFiles, tmp_path: Path, example_images: np.ndarray
) -> None:
    graph = to_onnx.export(files, tmp_path / "tiny.onnx", opset=17, attention=False)
    assert list(_run(graph, example_images)) == ["logits", "embedding"]
    with_fewer = find(files.weights)
    for name in ("onnxruntime", "openvino"):
        pytest.importorskip(name)
        engine = open_engine(name, with_fewer, precision="fp32")
        assert engine.info.outputs == ("logits", "embedding")
        assert verify(with_fewer, engine, example_images).passed
        engine.close()


def test_the_graph_in_place_points_into_the_weights(files: ModelFiles) -> None:
    assert files.graph is not None
    model = onnx.load(files.graph, load_external_data=False)
    places = tensor_places(files.weights)
    outside = [entry for entry in model.graph.initializer if entry.external_data]
    assert {entry.name.removesuffix(".fp16") for entry in outside} == set(places)
    for entry in outside:
        told = {pair.key: pair.value for pair in entry.external_data}
        place = places[entry.name.removesuffix(".fp16")]
        assert told == {
            "location": "tiny.safetensors",
            "offset": str(place.offset),
            "length": str(place.length),
        }
        one_dimensional = len(place.shape) == 1
        expected = onnx.TensorProto.FLOAT if one_dimensional else onnx.TensorProto.FLOAT16
        assert entry.data_type == expected, entry.name
        assert entry.name.endswith(".fp16") == (not one_dimensional)
    inside = sum(entry.ByteSize() for entry in model.graph.initializer if not entry.external_data)
    assert inside < 2000  # shapes and scalars alone
    assert files.graph.stat().st_size < 100_000


def test_batch_norm_vectors_pass_through_no_cast(files: ModelFiles) -> None:
    assert files.graph is not None
    model = onnx.load(files.graph, load_external_data=False)
    cast = {output for node in model.graph.node if node.op_type == "Cast" for output in node.output}
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert len(norms) == 33
    assert not cast & {name for node in norms for name in node.input[1:]}


def test_the_graph_tells_which_model_it_is(files: ModelFiles) -> None:
    assert files.graph is not None
    model = onnx.load(files.graph, load_external_data=False)
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told["name"] == "tiny"
    assert told["weights_sha256"] == files.sha256
    assert json.loads(told["classes"]) == ["lungs", "infection"]
    assert json.loads(told["thresholds"]) == {"lungs": 0.5, "infection": 0.4}
    assert model.producer_name == "sgmsnet"
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


def test_exporting_again_gives_the_same_bytes(files: ModelFiles) -> None:
    assert files.graph is not None
    before = files.graph.read_bytes()
    assert to_onnx.export_in_place(files).read_bytes() == before


def test_a_graph_that_answers_otherwise_is_not_put_in_place(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph_of = to_onnx._graph

    def disturbed(*arguments: object, **options: object) -> onnx.ModelProto:
        model = graph_of(*arguments, **options)
        entry = next(entry for entry in model.graph.initializer if entry.name == "head.bias")
        entry.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(entry) + 0.01, entry.name))
        return model

    monkeypatch.setattr(to_onnx, "_graph", disturbed)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ExportError, match=r"logits differs by 0\.01"):
        to_onnx.export(files, tmp_path / "bad.onnx", opset=17)
    assert sorted(tmp_path.iterdir()) == before


def test_a_frozen_batch_and_another_opset_are_refused(files: ModelFiles) -> None:
    assert files.graph is not None
    model = onnx.load(files.graph, load_external_data=False)
    with pytest.raises(ExportError, match="opset 17"):
        to_onnx._assert_opset(model, 17)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(ExportError, match="free N"):
        to_onnx._assert_shapes(model, files)


def test_the_reference_holds_pytorch_s_outputs(files: ModelFiles, example_images: np.ndarray) -> None:
    with np.load(to_onnx.write_reference(files, example_images), allow_pickle=False) as stored:
        assert set(stored.files) == {"images", "weights_sha256", *files.config.outputs}
        assert str(stored["weights_sha256"]) == files.sha256
        np.testing.assert_array_equal(stored["images"], example_images)
        with torch.inference_mode():
            expected = load_network(files)(torch.from_numpy(example_images))
        for name in files.config.outputs:
            assert stored[name].dtype == np.float32
            np.testing.assert_allclose(stored[name], expected[name].numpy(), rtol=0, atol=1e-4)


def test_the_reference_keeps_to_its_size(
    files: ModelFiles, example_images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_onnx, "_REFERENCE_BYTES", 100_000)
    path = to_onnx.write_reference(files, example_images)
    assert path.stat().st_size <= 100_000
    with np.load(path) as stored:
        assert 1 <= len(stored["images"]) < 4
    monkeypatch.setattr(to_onnx, "_REFERENCE_BYTES", 1000)
    with np.load(to_onnx.write_reference(files, example_images)) as stored:
        assert len(stored["images"]) == 1, "a model of large images has a reference too"


def test_verify_sees_another_model_s_answers(files: ModelFiles, example_images: np.ndarray, tmp_path: Path) -> None:
    network = load_network(files)
    with torch.no_grad():
        network.head.bias += 0.5
    other = find(save(tmp_path / "other.safetensors", network, name="other"))
    engine = open_engine("pytorch", other)
    parity = verify(files, engine, example_images)
    assert parity.logit_difference_max == pytest.approx(0.5, abs=1e-3)
    assert parity.mask_iou_min <= parity.mask_iou_mean < 0.999
    assert parity.pixels_changed > 0
    assert not parity.passed
    with torch.no_grad():
        engine._network.head.bias[0] = float("nan")  # type: ignore[attr-defined]
    parity = verify(files, engine, example_images)
    assert parity.not_finite == 4 * 64 * 64
    assert not parity.passed
    json.dumps(parity.to_dict(), allow_nan=False)


def test_commands_make_a_graph_and_verify_it(
    files: ModelFiles, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.__main__.BUILT", tmp_path)
    model = str(files.weights)
    assert files.graph is not None
    files.graph.write_bytes(b"stale")
    assert main(["verify", "--model", model]) == 1
    assert "--weights-in-place" in capsys.readouterr().err
    assert main(["onnx", "--model", model, "--weights-in-place"]) == 0
    report = tmp_path / "report.json"
    assert main(["verify", "--model", model, "--engine", "onnxruntime", "--json", str(report)]) == 0
    figures = json.loads(report.read_text())
    assert (figures["passed"], figures["refused"]) == (None, [])  # the reference has too few images to judge
    assert figures["against"] == "reference"
    assert json.loads((tmp_path / "tiny" / "onnxruntime-fp32" / "parity.json").read_text()) == figures
    capsys.readouterr()


def test_all_verifies_every_runtime_once_and_names_what_does_not_open(files: ModelFiles, tmp_path: Path) -> None:
    lines: list[str] = []
    broken = tmp_path / "tiny" / "openvino-int8"
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("{}")
    found, status = verify_all.run(files, [], report=lines.append, built=tmp_path)
    assert sorted(one["engine"] for one in found) == ["onnxruntime", "openvino", "pytorch"]
    assert {one["against"] for one in found} == {"reference"}
    for one in found:
        assert f"{one['engine']} in {one['precision']} on {one['device']}: {one['verdict']}" in "\n".join(lines)
        kept = tmp_path / "tiny" / f"{one['engine']}-{one['precision']}" / "parity.json"
        assert json.loads(kept.read_text()) == one
    assert [line for line in lines if line.startswith("openvino in int8: not opened, the manifest in ")]
    assert status == 1, "an artefact that is here does not open"
    (broken / "manifest.json").unlink()
    again, status = verify_all.run(files, [], report=lines.append, built=tmp_path)
    assert [one["engine"] for one in again] == [one["engine"] for one in found], "verdicts name what is here already"
    failed = any(one["passed"] is False for one in again)  # in BF16 the random weights of this model do
    assert status == int(failed)


def test_all_goes_on_without_torch_and_past_an_engine_that_fails(
    files: ModelFiles, tmp_path: Path, example_images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "export.to_onnx", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(verify_all, "everything", lambda files, built: [(name, None) for name in ENGINES])
    size = files.config.height
    cases = [Case(planes, Geometry(size, size, size, size, 0, 0, size, size)) for planes in example_images]
    lines: list[str] = []
    found, _ = verify_all.run(files, cases, report=lines.append, built=tmp_path)
    assert [one["engine"] for one in found] == ["openvino"]
    assert "onnxruntime in fp32: what the others are compared with, as there is no torch" in lines
    assert sum("not opened" in line for line in lines) == 4, "both TensorRT, PyTorch and Triton are not here"

    def fail(self: object, images: np.ndarray) -> dict[str, np.ndarray]:
        raise EngineError("the runtime ran out of memory")

    monkeypatch.setattr("engines.openvino_engine.OpenVinoEngine.run", fail)
    found, status = verify_all.run(files, cases, report=lines.append, built=tmp_path)
    assert (found, status) == ([], 1)
    assert "openvino: not verified, the runtime ran out of memory" in lines


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "--engine", "all", "--precision", "int8", "--model"],
        ["onnx", "--model", "nowhere"],
        ["onnx", "--weights-in-place", "--opset", "17", "--model"],
        ["onnx", "--output", "no-such-folder/x.onnx", "--opset", "17", "--model"],
        ["reference", "--images", "nowhere.png", "--model"],
        ["verify", "--engine", "abacus", "--model"],
        ["onnx", "--opset", "10", "--model"],
    ],
)
def test_a_command_that_cannot_be_done_says_one_sentence(
    arguments: list[str], files: ModelFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    model = [str(files.weights)] if arguments[-1] == "--model" else []
    assert main([*arguments, *model]) == 1
    told = capsys.readouterr().err.strip()
    assert told
    assert "\n" not in told


@pytest.mark.parametrize("opset", ["17", "20"])
def test_what_torch_cannot_export_is_one_sentence(
    opset: str, files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.onnx.errors.UnsupportedOperatorError("aten::abacus", 17, None)

    monkeypatch.setattr(torch.onnx, "export", refuse)
    output = ["--opset", opset, "--output", str(tmp_path / "x.onnx")]
    assert main(["onnx", "--model", str(files.weights), *output]) == 1
    told = capsys.readouterr().err.strip()
    assert told.startswith(f"torch could not export the network at opset {opset}: ")
    assert "\n" not in told
