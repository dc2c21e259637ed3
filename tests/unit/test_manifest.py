"""A manifest comes back as it was written, and every way in which an artefact may not fit has its sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines import manifest as manifests
from engines.manifest import ManifestError
from tests.fake_tensorrt import a_manifest


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = a_manifest()
    path = manifests.write(tmp_path, written)
    assert manifests.read(tmp_path) == written
    assert json.loads(path.read_text())["outputs"]["logits"] == [-1, 2, 64, 64]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format_version": 2}, "format version 2"),
        ({"weights_sha256": "abc"}, "weights_sha256 is not a SHA-256"),
        ({"artefact_sha256": None}, "artefact_sha256 is not a SHA-256"),
        ({"artefact": "../model.plan"}, "not the name of a file beside it"),
        ({"outputs": {}}, "one input and the outputs"),
        ({"batch_max": 0}, "batch_max must be 1 or more"),
        ({"thresholds": {"lungs": 0.5}}, "not those of its classes"),
        ({"compute_capability": []}, "no compute capability"),
        ({"outputs": ["logits"]}, "wrong kind"),
        ({"extra": 1}, "lacks or has too much: extra"),
    ],
)
def test_values_that_cannot_be_are_refused(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = manifests.write(tmp_path, a_manifest())
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ManifestError, match=reason):
        manifests.read(tmp_path)


def test_a_missing_a_broken_and_an_incomplete_manifest_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="there is no manifest"):
        manifests.read(tmp_path)
    for text, reason in (("{", "cannot be read"), ("[]", "lacks or has too much"), ("{}", "lacks.*weights_sha256")):
        (tmp_path / manifests.FILE_NAME).write_text(text)
        with pytest.raises(ManifestError, match=reason):
            manifests.read(tmp_path)


def test_a_manifest_from_before_multiprocessors_were_counted_is_read_and_fits_any_number(tmp_path: Path) -> None:
    path = manifests.write(tmp_path, replace(a_manifest(), multiprocessors=16))
    values = json.loads(path.read_text())
    assert values.pop("multiprocessors") == 16
    path.write_text(json.dumps(values))
    made = manifests.read(tmp_path)
    assert made == a_manifest()
    manifests.check_machine(made, gpu_name="Orin", compute_capability="8.6", multiprocessors=8)


def test_figures_of_verification_are_recorded(tmp_path: Path) -> None:
    manifests.write(tmp_path, a_manifest())
    manifests.record_parity(tmp_path, {"passed": False, "mask_iou_mean": 0.5})
    assert manifests.read(tmp_path) == replace(a_manifest(), parity={"passed": False, "mask_iou_mean": 0.5})


def test_a_missing_and_a_changed_artefact_are_refused(tmp_path: Path) -> None:
    plan = tmp_path / "model.plan"
    with pytest.raises(ManifestError, match="not there"):
        manifests.check_artefact(tmp_path, a_manifest())
    plan.write_bytes(b"plan")
    good = replace(a_manifest(), artefact_sha256=manifests.file_sha256(plan))
    assert manifests.check_artefact(tmp_path, good) == plan
    plan.write_bytes(b"plam")
    with pytest.raises(ManifestError, match="damaged or was changed"):
        manifests.check_artefact(tmp_path, good)


def test_other_weights_failed_parity_another_gpu_and_another_version_are_refused() -> None:
    made = a_manifest()
    manifests.check_model(made, weights_sha256=made.weights_sha256)
    manifests.check_machine(made, gpu_name="RTX", compute_capability="8.9")
    manifests.check_version(made, made.runtime_version)
    failed = replace(made, parity={"passed": False})
    with pytest.raises(ManifestError, match="did not give PyTorch's answer"):
        manifests.check_model(failed, weights_sha256=made.weights_sha256)
    with pytest.raises(ManifestError, match="other weights"):
        manifests.check_model(made, weights_sha256="f" * 64)
    with pytest.raises(ManifestError, match=r"for compute capability 8\.6, 8\.9, and Orin has 8\.7"):
        manifests.check_machine(made, gpu_name="Orin", compute_capability="8.7")
    with pytest.raises(ManifestError, match="built on A, and this is B"):
        manifests.check_machine(replace(made, gpu_name="A"), gpu_name="B", compute_capability="8.6")
    counted = replace(made, gpu_name="Orin", multiprocessors=16)
    manifests.check_machine(counted, gpu_name="Orin", compute_capability="8.6", multiprocessors=16)
    with pytest.raises(ManifestError, match=r"built on 16 multiprocessors, and this Orin has 8: another module"):
        manifests.check_machine(counted, gpu_name="Orin", compute_capability="8.6", multiprocessors=8)
    with pytest.raises(ManifestError, match=r"version 1\.7, and 1\.8 is here"):
        manifests.check_version(made, "1.8")
