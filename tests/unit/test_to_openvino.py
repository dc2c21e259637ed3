"""OpenVINO artefacts: built with a manifest, verified against truth, refused with the reason when they do not fit."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from engines import manifest as manifests
from engines import processor, select, verdicts
from engines.artefacts import fitting_artefact, held, runnable_graph
from engines.base import EngineUnavailable
from engines.openvino_engine import OpenVinoEngine
from engines.select import open_unverified
from export import ExportError, cases, to_onnx, to_openvino
from export.cases import Case
from export.quantise import not_quantised, with_plain_weights
from export.verify import DiceChange, Parity, too_little, verify, verify_cases
from sgmsnet.checkpoint import ModelFiles, find, save
from sgmsnet.config import ModelConfig
from sgmsnet.imaging import Geometry
from sgmsnet.model import SGMSNet


@pytest.fixture
def files(tiny_model: Path) -> ModelFiles:
    return find(tiny_model)


@pytest.fixture
def folder(tmp_path: Path, example_images: np.ndarray) -> Path:
    """Four X-rays, three with a true mask of the infection beside them."""
    for name in ("images", "sick"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for index, image in enumerate(example_images):
        Image.fromarray(image[0]).save(tmp_path / "set" / "images" / f"{index}.png")
        if index < 3:
            Image.fromarray((image[0] > 128).astype(np.uint8)).save(tmp_path / "set" / "sick" / f"{index}.png")
    return tmp_path / "set"


def a_parity(**changes: object) -> Parity:
    parity = Parity(
        engine="openvino",
        precision="int8",
        device="CPU",
        runtime_version="1",
        model="tiny",
        model_sha256="0" * 64,
        against="pytorch",
        images=100,
        logit_difference_max=1.0,
        attention_difference_max=0.1,
        embedding_difference_max=0.1,
        mask_iou_mean=0.99,
        mask_iou_5th_percentile=0.9,
        mask_iou_min=0.8,
        pixels_changed=0.001,
        not_finite=0,
        dice={"infection": DiceChange(images=100, before=80.0, after=79.71)},
    )
    return replace(parity, **changes)  # type: ignore[arg-type]


def test_an_artefact_is_built_with_its_manifest_and_opened(files: ModelFiles, tmp_path: Path) -> None:
    built = to_openvino.build(files, precision="bf16", built=tmp_path, report=lambda line: None)
    made = manifests.read(built)
    assert (made.runtime, made.precision, made.weights_sha256) == ("openvino", "bf16", files.sha256)
    found = fitting_artefact(files, "bf16", version=made.runtime_version, built=tmp_path)
    assert found == built / "model.onnx"
    engine = open_unverified("openvino", files, precision="fp32", built=tmp_path)
    engine.close()


def test_an_artefact_that_does_not_fit_is_refused_with_the_reason(files: ModelFiles, tmp_path: Path) -> None:
    built = to_openvino.build(files, precision="bf16", built=tmp_path, report=lambda line: None)
    version = manifests.read(built).runtime_version
    with pytest.raises(EngineUnavailable, match=r"built by version .*--precision bf16"):
        fitting_artefact(files, "bf16", version="1", built=tmp_path)
    with pytest.raises(EngineUnavailable, match="other weights"):
        fitting_artefact(replace(files, sha256="0" * 64), "bf16", version=version, built=tmp_path)
    manifests.record_parity(built, {"passed": False, "refused": ["the mean mask IoU is 0.5"]})
    with pytest.raises(EngineUnavailable, match=r"PyTorch's answer.*mask IoU is 0\.5"):
        fitting_artefact(files, "bf16", version=version, built=tmp_path)
    (built / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(EngineUnavailable, match="damaged or was changed"):
        fitting_artefact(files, "bf16", version=version, built=tmp_path, unverified=True)
    assert fitting_artefact(files, "fp16", version=version, built=tmp_path) is None


def test_int8_is_refused_on_a_processor_that_cannot_multiply_it(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "flags", lambda: ("avx2", "avx512f"))
    for engine in (OpenVinoEngine, partial(open_unverified, "openvino")):
        with pytest.raises(EngineUnavailable, match="VNNI or AMX, which this one has not"):
            engine(files, precision="int8", built=tmp_path)
    case = Case(np.zeros((1, 64, 64), np.uint8), Geometry(64, 64, 64, 64, 0, 0, 64, 64))
    with pytest.raises(ExportError, match="VNNI or AMX"):
        to_openvino.build(files, precision="int8", calibration=[case], verification=[case], built=tmp_path)
    assert not list(tmp_path.glob("*/openvino-int8")), "told before anything is built"


@pytest.mark.parametrize("flags", [("avx2", "avx_vnni"), ("avx512f", "avx512_vnni"), ("amx_int8",), ("asimd",), ()])
def test_int8_is_left_to_its_verdict_elsewhere(flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "flags", lambda: flags)
    processor.require_int8()


def test_int8_is_never_opened_without_verification(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "flags", lambda: ("avx2", "avx_vnni"))
    with pytest.raises(ExportError, match="others to verify it on"):
        to_openvino.build(files, precision="int8", built=tmp_path)
    with pytest.raises(EngineUnavailable, match="no openvino artefact in int8"):
        open_unverified("openvino", files, precision="int8", built=tmp_path)
    built = to_openvino.build(files, precision="bf16", built=tmp_path, report=lambda line: None)
    as_int8 = built.rename(built.with_name("openvino-int8"))
    made = replace(manifests.read(as_int8), precision="int8")
    manifests.write(as_int8, made)
    for parity in (None, {"passed": None}):
        manifests.write(as_int8, replace(made, parity=parity))
        with pytest.raises(EngineUnavailable, match="was not verified"):
            fitting_artefact(files, "int8", version=made.runtime_version, built=tmp_path)
    manifests.write(as_int8, replace(made, parity={"passed": True}))
    with pytest.raises(EngineUnavailable, match="built by version"):  # strict: no other precision in its place
        runnable_graph(files, "int8", version="1", built=tmp_path)


def test_what_was_built_before_an_upgrade_makes_room_for_the_shipped_graph(files: ModelFiles, tmp_path: Path) -> None:
    built = to_openvino.build(files, precision="bf16", built=tmp_path, report=lambda line: None)
    made = manifests.read(built)
    assert runnable_graph(files, "bf16", version=made.runtime_version, built=tmp_path) == (built / "model.onnx", ())
    manifests.write(built, replace(made, runtime_version="1"))
    graph, notes = runnable_graph(files, "bf16", version=made.runtime_version, built=tmp_path)
    assert graph == files.graph
    assert "runs the graph beside the weights: the openvino artefact was built by version 1" in notes[0]
    with pytest.raises(EngineUnavailable, match="built by version 1"):  # what is verified is what was built
        runnable_graph(files, "bf16", version=made.runtime_version, built=tmp_path, unverified=True)
    as_fp32 = built.rename(built.with_name("openvino-fp32"))
    manifests.write(as_fp32, replace(made, runtime_version="1", precision="fp32"))
    engine = OpenVinoEngine(files, precision="fp32", built=tmp_path)
    engine.close()
    assert "version 1" in engine.info.notes[0]


def test_what_was_built_is_listed_with_its_verdict(files: ModelFiles, tmp_path: Path) -> None:
    built = to_openvino.build(files, precision="bf16", built=tmp_path, report=lambda line: None)
    assert [(one.precision, one.state) for one in held(files, built=tmp_path)] == [("bf16", "not verified")]
    few, enough = a_parity(images=99).to_dict(), a_parity().to_dict()
    verdicts.write(tmp_path / "tiny" / "onnxruntime-fp32", {**few, "model_sha256": files.sha256})
    for parity, state, verified in (
        (enough, "verified on 100 images", True),
        (few, "99 images, too few to judge", False),
        (a_parity(not_finite=1).to_dict(), "did not give PyTorch's answer when it was verified: 1 values", False),
    ):
        manifests.record_parity(built, parity)
        other, found = held(files, built=tmp_path)
        assert (other.runtime, other.state, other.verified) == ("onnxruntime", "99 images, too few to judge", False)
        assert found.state.startswith(state)
        assert found.verified is verified
    (built / "model.onnx").write_bytes(b"damaged")
    assert "damaged" in held(files, built=tmp_path)[1].state


def test_the_convolutions_of_a_fine_stem_and_what_they_are_added_to_are_left_out_of_quantisation(
    files: ModelFiles, tmp_path: Path
) -> None:
    config = ModelConfig.from_dict(files.config.to_dict() | {"fine_stem": True})
    fine = find(save(tmp_path / "fine.safetensors", SGMSNet(config).eval(), name="fine"))
    graph = onnx.load(to_onnx.export(fine, tmp_path / "fine.onnx"))
    kept = set(not_quantised(graph))
    fine_nodes = [node for node in graph.graph.node if any("encoder.fine.conv" in name for name in node.input)]
    assert len(fine_nodes) == 3
    assert {node.name for node in fine_nodes} <= kept
    [added] = [node for node in graph.graph.node if fine_nodes[-1].output[0] in node.input]
    assert added.op_type == "Add"
    assert added.name in kept


def test_the_sensitive_layers_are_left_out_of_quantisation(files: ModelFiles) -> None:
    assert files.graph is not None
    graph = with_plain_weights(onnx.load(files.graph))
    onnx.checker.check_model(graph)
    kept = set(not_quantised(graph))
    weights = {node.name: node.input[1] for node in graph.graph.node if node.op_type == "Conv"}
    assert {weights[name] for name in weights if name in kept} >= {
        "encoder.conv1.weight",
        "memory.5.query_transform.weight",
        "decoder.2.gate.psi.0.weight",
        "decoder.2.spatial.conv2.weight",
        "head.weight",
    }
    assert "encoder.layer1.0.conv1.weight" not in {weights[name] for name in weights if name in kept}
    sensitive = {"MatMul", "LogSoftmax", "Exp", "Sigmoid", "ReduceMean", "Sqrt"}
    assert {node.name for node in graph.graph.node if node.op_type in sensitive} <= kept


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mask_iou_mean": 0.989}, "mean mask IoU is 0.9890"),
        ({"mask_iou_mean": float("nan")}, "mean mask IoU"),
        ({"not_finite": 1}, "not finite"),
        ({"dice": {"lungs": DiceChange(images=9, before=90.0, after=89.6)}}, "Dice of lungs goes from 90.00 to 89.60"),
        ({"precision": "bf16", "mask_iou_mean": 0.999}, "a change of 0.1"),
    ],
)
def test_what_is_out_of_its_bound_says_why(changes: dict[str, object], reason: str) -> None:
    assert a_parity().passed
    refused = a_parity(**changes).refused
    assert reason in "; ".join(refused)
    assert a_parity(**changes).to_dict()["passed"] is False
    assert a_parity(**changes, images=4).to_dict()["passed"] is False


def test_fewer_than_a_hundred_images_do_not_pass_and_are_not_refused(files: ModelFiles, tmp_path: Path) -> None:
    few = a_parity(images=99, precision="bf16", mask_iou_mean=0.995, dice={}).to_dict()
    assert (few["passed"], few["refused"]) == (None, [])
    assert few["verdict"] == "too few images to judge: 99, and 100 are required"
    enough = a_parity(precision="bf16", mask_iou_mean=0.995, dice={}).to_dict()
    assert (enough["passed"], enough["verdict"]) == (True, "passed")
    built = to_openvino.build(files, precision="bf16", built=tmp_path, report=lambda line: None)
    manifests.record_parity(built, few)
    version = manifests.read(built).runtime_version
    assert fitting_artefact(files, "bf16", version=version, built=tmp_path) == built / "model.onnx"


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_look_at_few_images_takes_no_verdict_away(precision: str, files: ModelFiles, tmp_path: Path) -> None:
    built = to_openvino.build(files, precision="bf16", built=tmp_path, report=lambda line: None)
    folder = built.rename(built.with_name(f"openvino-{precision}"))
    manifests.write(folder, replace(manifests.read(folder), precision=precision))
    same = {"lungs": DiceChange(images=9, before=90.0, after=90.0)}
    enough = to_openvino.record(folder, a_parity(precision=precision, mask_iou_mean=0.999, dice=same))
    assert enough["passed"]
    few = to_openvino.record(folder, a_parity(precision=precision, mask_iou_mean=0.999, images=3, dice={}))
    assert few["passed"] is None
    assert verdicts.read(folder) == enough
    assert manifests.read(folder).parity == enough
    other = a_parity(precision=precision, mask_iou_mean=0.999, images=3, dice={}, device="another")
    assert verdicts.read(folder) != to_openvino.record(folder, other) == verdicts.read(folder)
    failed = to_openvino.record(folder, a_parity(precision=precision, images=3, not_finite=1))
    assert failed["passed"] is False
    assert manifests.read(folder).parity == failed, "few images are enough to refuse"


def test_int8_without_truths_is_not_judged_and_not_accepted() -> None:
    found = a_parity(dice={}).to_dict()
    assert (found["passed"], found["refused"]) == (None, [])
    assert verdicts.summary(found).startswith("not judged: no image had a true mask")


def test_without_torch_onnx_runtime_in_fp32_takes_its_place(
    files: ModelFiles, example_images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "export.to_onnx", None)
    engine = open_unverified("openvino", files, precision="fp32")
    parity = verify(files, engine, example_images)
    engine.close()
    assert (parity.against, parity.engine) == ("onnxruntime", "openvino")
    assert parity.passed
    same = open_unverified("onnxruntime", files)
    with pytest.raises(ValueError, match="leave --images out"):
        verify(files, same, example_images)
    same.close()


def test_a_hundred_images_with_truth_are_asked_for() -> None:
    assert too_little(a_parity()) == ()
    lacks = too_little(a_parity(images=99, dice={}))
    assert "99" in lacks[0]
    assert "true mask" in lacks[1]


def test_dice_against_truth_is_that_of_the_formula(files: ModelFiles, folder: Path) -> None:
    found = cases.read([folder], files, masks={"infection": "sick"})
    assert [len(case.truths) for case in found] == [1, 1, 1, 0]
    engine = open_unverified("onnxruntime", files)
    parity = verify_cases(files, engine, found)
    logits = engine.run(np.stack([case.planes for case in found]))["logits"][:, 1]
    engine.close()
    masks = logits >= np.log(0.4 / 0.6)
    dice = [
        2 * (mask & case.truths["infection"]).sum() / (mask.sum() + case.truths["infection"].sum())
        for mask, case in zip(masks[:3], found, strict=False)
    ]
    assert parity.dice["infection"].images == 3
    assert parity.dice["infection"].after == pytest.approx(100 * np.mean(dice), abs=1e-3)
    assert parity.outputs["logits"].max == parity.logit_difference_max
    assert parity.outputs["logits"].mean <= parity.outputs["logits"].quantile_99 <= parity.logit_difference_max


def test_an_engine_that_failed_verification_here_is_refused_by_select(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_unverified("onnxruntime", files)
    info = engine.info
    engine.close()
    bad = a_parity(
        engine="onnxruntime",
        precision="fp32",
        device=info.device,
        runtime_version=info.runtime_version,
        model_sha256=info.model_sha256,
    )
    path = verdicts.write(tmp_path / "tiny" / "onnxruntime-fp32", bad.to_dict())
    refuse = verdicts.refuse_failed
    monkeypatch.setattr(select, "refuse_failed", lambda info: refuse(info, built=tmp_path))
    with pytest.raises(EngineUnavailable, match="did not give PyTorch's answer"):
        select.open_engine("onnxruntime", files)
    path.write_text(json.dumps(bad.to_dict() | {"runtime_version": "0"}))
    select.open_engine("onnxruntime", files).close()
    path.write_text("{")
    select.open_engine("onnxruntime", files).close()
