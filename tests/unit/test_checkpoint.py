"""Weights files: what goes in comes out, in the same bytes every time; one sentence for a file that is not ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from sgmsnet import checkpoint
from sgmsnet.checkpoint import WeightsError, find, load_encoder_file, load_network, save
from sgmsnet.config import ModelConfig
from sgmsnet.formats import graph_metadata, tensor_places
from sgmsnet.model import SGMSNet


@pytest.fixture
def network(tiny_config: ModelConfig) -> SGMSNet:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return SGMSNet(tiny_config).eval()


@pytest.fixture
def weights(tmp_path: Path, network: SGMSNet) -> Path:
    return save(
        tmp_path / "one.safetensors",
        network,
        name="one",
        thresholds={"lungs": 0.5, "infection": 0.3},
        temperature={"lungs": 1.0, "infection": 1.5},
        provenance={"trained_on": "noise"},
    )


def _rewrite(path: Path, **changes: str | None) -> None:
    """Write the file again with other metadata; None removes an entry."""
    with safe_open(path, framework="np") as file:
        metadata = {key: value for key, value in (file.metadata() | changes).items() if value is not None}
    save_file(load_file(path), path, metadata)


def test_what_was_saved_is_found(weights: Path, tiny_config: ModelConfig) -> None:
    files = find(weights)
    assert (files.name, files.weights, files.graph, files.reference) == ("one", weights, None, None)
    assert files.config == tiny_config
    assert files.thresholds == {"lungs": 0.5, "infection": 0.3}
    assert files.temperature == {"lungs": 1.0, "infection": 1.5}
    assert files.provenance == {"trained_on": "noise"}
    done = subprocess.run(["sha256sum", weights], capture_output=True, text=True, check=True)
    assert files.sha256 == done.stdout.split()[0]


def test_the_hash_follows_the_file(weights: Path) -> None:
    before = find(weights).sha256
    _rewrite(weights, name="two")
    assert find(weights).sha256 != before


def test_a_plain_name_is_a_shipped_model(weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path)
    assert find("one").weights == weights
    with pytest.raises(WeightsError, match="two"):
        find("two")


def test_the_loaded_network_answers_as_the_saved_one(weights: Path, network: SGMSNet) -> None:
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    loaded = load_network(find(weights))
    assert not loaded.training
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    with torch.inference_mode():
        expected, found = network(images), loaded(images)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0.02, msg=name)


def test_saving_what_was_loaded_gives_the_same_bytes(weights: Path, tmp_path: Path) -> None:
    files = find(weights)
    again = save(
        tmp_path / "again.safetensors",
        load_network(files),
        name=files.name,
        thresholds=files.thresholds,
        temperature=files.temperature,
        provenance=files.provenance,
    )
    assert again.read_bytes() == weights.read_bytes()
    assert sorted(tmp_path.iterdir()) == [again, weights]  # no temporary file stays


def test_one_dimension_is_fp32_and_everything_else_fp16(weights: Path, network: SGMSNet) -> None:
    stored = load_file(weights)
    assert set(stored) == {key for key in network.state_dict() if not key.endswith("num_batches_tracked")}
    for key, value in stored.items():
        assert value.dtype == (np.float32 if value.ndim == 1 else np.float16), key


def test_places_point_at_the_tensors(weights: Path) -> None:
    content, stored = weights.read_bytes(), load_file(weights)
    places = tensor_places(weights)
    assert set(places) == set(stored)
    for key, place in places.items():
        values = np.frombuffer(content[place.offset : place.offset + place.length], stored[key].dtype)
        np.testing.assert_array_equal(values.reshape(place.shape), stored[key])
        assert place.offset % stored[key].itemsize == 0


def test_side_heads_of_deep_supervision_are_left_out(tmp_path: Path, tiny_config: ModelConfig) -> None:
    network = SGMSNet(replace(tiny_config, deep_supervision=True))
    files = find(save(tmp_path / "deep.safetensors", network, name="deep"))
    assert not files.config.deep_supervision
    assert not any("side_heads" in key for key in load_file(files.weights))
    assert load_network(files).training is False


def test_unknown_tensors_are_left_alone(weights: Path) -> None:
    with safe_open(weights, framework="np") as file:
        metadata = file.metadata()
    save_file(load_file(weights) | {"other.mean": np.zeros(32, np.float32)}, weights, metadata)
    load_network(find(weights))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 70000.0])
def test_values_that_cannot_be_stored_are_refused(network: SGMSNet, tmp_path: Path, value: float) -> None:
    with torch.no_grad():
        network.encoder.conv1.weight[0, 0, 0, 0] = value
    with pytest.raises(WeightsError, match=r"encoder\.conv1\.weight"):
        save(tmp_path / "bad.safetensors", network, name="bad")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("thresholds", [{"lungs": 0.5}, {"lungs": 0.5, "infection": 1.0}, {"a": 0.5, "b": 0.5}])
def test_thresholds_that_do_not_fit_the_classes_are_refused(
    network: SGMSNet, tmp_path: Path, thresholds: dict[str, float]
) -> None:
    with pytest.raises(WeightsError, match="threshold"):
        save(tmp_path / "bad.safetensors", network, name="bad", thresholds=thresholds)


def test_files_that_are_not_ours_are_refused_in_one_sentence(tmp_path: Path, weights: Path) -> None:
    whole = weights.read_bytes()
    plain = tmp_path / "plain.safetensors"
    save_file({"a": np.zeros(2, np.float32)}, plain)
    bad = {"empty": b"", "text": b"no weights at all", "short": whole[:-10], "huge": b"\xff" * 64}
    for name, content in bad.items():
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    for name in (*bad, "plain", "missing"):
        with pytest.raises(WeightsError, match=name) as caught:
            find(tmp_path / f"{name}.safetensors")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config", None),
        ("config", "no json"),
        ("config", "[1]"),
        ("config", json.dumps({"height": 50})),
        ("config", json.dumps({"height": "tall"})),
        ("config", json.dumps({"classes": ["a"], "wings": 2})),
        ("thresholds", json.dumps({"lungs": 0.5})),
        ("thresholds", json.dumps(["lungs", "infection"])),
        ("temperature", json.dumps({"lungs": 0, "infection": 1})),
        ("provenance", "3"),
        ("name", None),
    ],
)
def test_a_header_that_cannot_be_used_is_refused(weights: Path, key: str, value: str | None) -> None:
    _rewrite(weights, **{key: value})
    with pytest.raises(WeightsError, match=r"one\.safetensors"):
        find(weights)


def test_weights_of_another_shape_than_the_header_says_are_refused(weights: Path, tiny_config: ModelConfig) -> None:
    config = replace(tiny_config, decoder_widths=(16, 8, 16, 16))
    _rewrite(weights, config=json.dumps(config.to_dict()))
    with pytest.raises(WeightsError, match=r"decoder\.2"):
        load_network(find(weights))
    _rewrite(weights, config=json.dumps(replace(tiny_config, memory_stages=(4, 5)).to_dict()))
    with pytest.raises(WeightsError, match=r"memory\.4.* is missing"):
        load_network(find(weights))


def test_a_graph_of_other_weights_is_refused(weights: Path) -> None:
    model = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    graph = weights.with_suffix(".onnx")
    for properties in ({}, {"weights_sha256": "0" * 64}):
        onnx.helper.set_model_props(model, properties)
        onnx.save(model, graph)
        with pytest.raises(WeightsError, match="made from other weights"):
            find(weights)
    assert find(weights, check_graph=False).graph == graph
    onnx.helper.set_model_props(model, {"weights_sha256": find(weights, check_graph=False).sha256})
    onnx.save(model, graph)
    assert find(weights).graph == graph


def test_graph_metadata_is_what_onnx_reads(tiny_model: Path, tmp_path: Path) -> None:
    graph = tiny_model.with_suffix(".onnx")
    expected = {entry.key: entry.value for entry in onnx.load(graph, load_external_data=False).metadata_props}
    assert graph_metadata(graph) == expected
    assert {"name", "weights_sha256", "classes", "thresholds"} <= set(expected)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 100, b"\x0a\x7f", np.random.default_rng(0).bytes(4096), b"\x72\x02\x0a\x00"]
)
def test_bytes_that_are_not_onnx_have_no_metadata(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    assert "weights_sha256" not in graph_metadata(path)


def test_finding_leaves_torch_out_of_the_process(tiny_model: Path) -> None:
    program = (
        "import sys; from sgmsnet.checkpoint import find; import sgmsnet;"
        f"find({str(tiny_model)!r}); assert 'torch' not in sys.modules and 'onnx' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_loading_draws_no_random_numbers(weights: Path) -> None:
    before = torch.get_rng_state()
    load_network(find(weights))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_encoder_file_is_read_from_safetensors_and_pth(tmp_path: Path) -> None:
    state = {"conv1.weight": torch.randn(8, 3, 7, 7), "fc.bias": torch.zeros(3)}
    torch.save(state, tmp_path / "encoder.pth")
    save_file({key: value.numpy() for key, value in state.items()}, tmp_path / "encoder.safetensors")
    for name in ("encoder.pth", "encoder.safetensors"):
        loaded = load_encoder_file(tmp_path / name)
        assert set(loaded) == set(state)
        assert torch.equal(loaded["conv1.weight"], state["conv1.weight"])


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, ("harm-was-done",))


def test_an_encoder_file_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": _Harmful()}, tmp_path / "evil.pth")
    (tmp_path / "text.pth").write_text("not a file of tensors")
    (tmp_path / "text.safetensors").write_text("not a file of tensors")
    torch.save({"a": 3}, tmp_path / "numbers.pth")
    for name in ("evil.pth", "text.pth", "text.safetensors", "numbers.pth", "missing.pth"):
        with pytest.raises(WeightsError, match=name.split(".")[0]):
            load_encoder_file(tmp_path / name)
    assert not (tmp_path / "harm-was-done").exists()
