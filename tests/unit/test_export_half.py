"""The mixed-precision graph: near PyTorch FP32, finite in half on extreme images, and FP32 where it must be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto

from export import ExportError, to_onnx
from export.__main__ import main
from export.half import HalfNetwork, fold_batch_norm
from export.to_onnx import extreme_images, run_pytorch
from sgmsnet.checkpoint import ModelFiles, find, load_network, save
from sgmsnet.config import ModelConfig
from sgmsnet.model import MemoryModule, SGMSNet

LARGEST_PRODUCT = 332_167
"""Of a query and a key in a trained network of the paper's configuration, without scaled queries."""


@pytest.fixture(scope="module")
def files(tiny_model: Path) -> ModelFiles:
    return find(tiny_model)


@pytest.fixture(scope="module", params=[17, 20])
def graph(request: pytest.FixtureRequest, files: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("half") / "tiny.onnx"
    jetpack = {17: "6.0", 20: "6.2"}[request.param]
    return to_onnx.export(files, path, opset=request.param, precision="fp16", jetpack=jetpack)


def test_onnx_runtime_gives_nearly_pytorch_s_fp32_answer(
    graph: Path, files: ModelFiles, example_images: np.ndarray
) -> None:
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert tuple(names) == files.config.outputs
    expected = run_pytorch(load_network(files), example_images)
    for name, value in zip(names, session.run(names, {"images": example_images}), strict=True):
        assert value.dtype == np.float32
        tolerance = 0.05 * max(1, np.abs(expected[name]).max())
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=tolerance, err_msg=name)


def test_convolutions_are_fp16_and_the_memory_and_outputs_fp32(graph: Path) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(graph), strict_mode=True)
    inner = model.graph
    types = {entry.name: entry.data_type for entry in inner.initializer}
    types |= {entry.name: entry.type.tensor_type.elem_type for entry in (*inner.value_info, *inner.output)}
    used = Counter(node.op_type for node in inner.node)
    assert used["Conv"] > 30
    assert not used["BatchNormalization"]
    for node in inner.node:
        if node.op_type == "Conv":
            assert {types[name] for name in node.input} == {TensorProto.FLOAT16}, node.name
        if node.op_type in ("MatMul", "LogSoftmax", "Softmax", "Exp", "Sqrt"):
            assert {types[name] for name in node.output} == {TensorProto.FLOAT}, node.name
    assert {types[output.name] for output in inner.output} == {TensorProto.FLOAT}


def test_no_fp16_weight_and_no_vector_passes_through_a_cast(graph: Path) -> None:
    inner = onnx.load(graph).graph
    half = TensorProto.FLOAT16
    weights = {entry.name for entry in inner.initializer if entry.data_type == half or len(entry.dims) == 1}
    assert not [node.name for node in inner.node if node.op_type == "Cast" and weights & set(node.input)]


def with_statistics(config: ModelConfig, images: np.ndarray) -> SGMSNet:
    """A random network whose batch norms have seen the images, and no part of which is zero any more."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SGMSNet(config)
        if network.encoder.fine is not None:
            torch.nn.init.normal_(network.encoder.fine.conv3.weight, std=0.2)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
        for _ in range(20):
            network.train()(torch.from_numpy(images))
    return network.eval()


@pytest.mark.parametrize("half", [False, True], ids=["folded", "FP16"])
@pytest.mark.parametrize(
    "change",
    [{}, {"fine_stem": True}, {"stem_skip": True}, {"memory_stages": [2, 5]}, {"deep_supervision": True}],
    ids=lambda change: " ".join(change) or "as shipped",
)
def test_every_variant_keeps_its_answer(
    change: dict[str, Any], half: bool, tiny_config: ModelConfig, example_images: np.ndarray
) -> None:
    network = with_statistics(ModelConfig.from_dict(tiny_config.to_dict() | change), example_images)
    expected = run_pytorch(network, example_images)
    if half:
        found = run_pytorch(HalfNetwork(network), example_images)
    else:
        fold_batch_norm(network)
        found = run_pytorch(network, example_images)
    assert set(found) == set(expected)
    for name, value in found.items():
        tolerance = (0.05 if half else 1e-4) * max(1, np.abs(expected[name]).max())
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=tolerance, err_msg=name)


def test_folding_keeps_the_answer(files: ModelFiles, example_images: np.ndarray) -> None:
    network = load_network(files)
    expected = run_pytorch(network, example_images)
    fold_batch_norm(network)
    assert not [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for name, value in run_pytorch(network, example_images).items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-4, err_msg=name)


def test_a_batch_norm_that_follows_no_convolution_is_not_folded() -> None:
    with pytest.raises(ExportError, match="follows no convolution"):
        fold_batch_norm(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.BatchNorm2d(4)).eval())


@pytest.mark.slow
def test_the_shipped_network_is_finite_in_pytorch_half_on_extreme_images() -> None:
    network = load_network(find("cxr"))
    images = extreme_images(network.config.height, network.config.width)
    for name, value in run_pytorch(HalfNetwork(network), images).items():
        assert np.isfinite(value).all(), name


def test_pytorch_half_is_finite_on_extreme_images_where_a_naive_conversion_overflows(tiny_config: ModelConfig) -> None:
    network, features = _as_the_paper_s(tiny_config)
    memory, images = network.memory["5"], extreme_images(64, 64)
    for name, value in run_pytorch(HalfNetwork(network), images).items():
        assert np.isfinite(value).all(), name

    with torch.inference_mode():
        exact, products = _naive_memory(memory, features)
        assert torch.isfinite(exact).all()
        assert products.abs().max().item() == pytest.approx(LARGEST_PRODUCT, rel=1e-3)
        memory.half()
        assert all(
            torch.isfinite(value).all() for value in (*memory.parameters(), memory.query_transform(features.half()))
        )
        naive, products = _naive_memory(memory, features.half())
    assert torch.isinf(products).any()
    assert torch.isnan(naive).any()


def test_a_network_in_which_last_digits_decide_is_exported_and_a_wrong_graph_of_it_is_not(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    network, _ = _as_the_paper_s(tiny_config)
    files = find(save(tmp_path / "paper.safetensors", network, name="paper"))
    graph = to_onnx.export(files, tmp_path / "out.onnx")
    wrong = load_network(files)
    with torch.no_grad():
        wrong.head.bias.add_(0.05)
    with pytest.raises(ExportError, match="logits differs by"):
        to_onnx.assert_parity(graph, wrong)


def _as_the_paper_s(config: ModelConfig) -> tuple[SGMSNet, torch.Tensor]:
    """A network whose memory has the products of a trained one, and what it is given for extreme images.

    The paper's memory does not scale its queries. The shipped one does, and stays far below FP16's 65,504 either way;
    so queries and keys of a random one are brought to the size that training the paper's configuration gave them.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SGMSNet(ModelConfig.from_dict(config.to_dict() | {"scale_query": False})).eval()
    memory = network.memory["5"]
    features = _memory_features(network, extreme_images(64, 64))
    with torch.no_grad():
        factor = (LARGEST_PRODUCT / _naive_memory(memory, features)[1].abs().max()) ** 0.5
        for parameter in (memory.memory_keys, *memory.query_transform.parameters()):
            parameter.mul_(factor)
    return network, features


def _memory_features(network: SGMSNet, images: np.ndarray) -> torch.Tensor:
    """What the memory is given for uint8 images (N, 1, H, W): (N, C, h, w)."""
    given: list[torch.Tensor] = []
    hook = network.memory["5"].register_forward_pre_hook(lambda module, arguments: given.append(arguments[0]))
    with torch.no_grad():
        network(torch.from_numpy(images))
    hook.remove()
    return given[0]


def _naive_memory(memory: MemoryModule, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The published formula in whatever precision x has: features, and the products before the softmax."""
    query = memory.query_transform(x).flatten(2).transpose(1, 2)
    products = query @ memory.memory_keys.transpose(1, 2)
    read = torch.softmax(products, dim=2) @ memory.memory_values
    return memory.output_transform(x + read.transpose(1, 2).reshape(x.shape)), products


def test_a_network_that_is_not_finite_in_half_is_refused(files: ModelFiles) -> None:
    network = load_network(files)
    with torch.no_grad():
        network.head.weight.mul_(1e9)
    with pytest.raises(ExportError, match=r"FP16 cannot hold the weight head\.weight"):
        HalfNetwork(network)
    with torch.no_grad():
        network.head.weight.clamp_(-6e4, 6e4)
    with pytest.raises(ExportError, match="logits is not finite in FP16"):
        to_onnx._in_half(network)


def test_the_network_that_is_converted_stays_as_it_is(files: ModelFiles) -> None:
    network = load_network(files)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    HalfNetwork(network)
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items())


def test_the_command_writes_it(files: ModelFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "half.onnx"
    arguments = ["onnx", "--model", str(files.weights), "--output", str(output), "--precision", "fp16"]
    for more, opset in ([], 17), (["--jetpack", "6.0"], 17), (["--jetpack", "6.2"], 20):
        assert main([*arguments, *more]) == 0
        model = onnx.load(output)
        assert model.opset_import[0].version == opset, more
        assert {entry.key: entry.value for entry in model.metadata_props}["precision"] == "fp16"
    assert main([*arguments, "--jetpack", "6.0", "--opset", "20"]) == 1
    assert "does not read opset 20" in capsys.readouterr().err
