"""Weights files: safetensors with the configuration in its header, and the graph beside it; no torch on import.

Not here: state of an interrupted training, and running anything. A model is one file NAME.safetensors;
NAME.onnx (the graph) and NAME.reference.npz (stored outputs) may lie beside it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from sgmsnet.config import ConfigError, ModelConfig
from sgmsnet.familiarity import PREFIX, FamiliarityModel
from sgmsnet.formats import graph_metadata, write_safetensors
from sgmsnet.interval import ShareCuts

if TYPE_CHECKING:
    from torch import Tensor

    from sgmsnet.model import SGMSNet

FORMAT = "sgmsnet-1"
SHIPPED = Path(__file__).resolve().parent.parent / "weights"
"""Where a model that is asked for by its plain name lies."""
_HEADER = ("format", "name", "config", "thresholds", "temperature", "provenance", "share_cuts")
LARGEST_FP16 = 65504.0
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class WeightsError(ValueError):
    """A weights file that cannot be used or written, told in one sentence."""


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A model on disk: its files and what the header of its weights says."""

    name: str
    weights: Path
    """NAME.safetensors."""
    graph: Path | None
    """NAME.onnx in the same folder, where there is one."""
    reference: Path | None
    """NAME.reference.npz in the same folder, where there is one."""
    config: ModelConfig
    thresholds: dict[str, float]
    """Probability from which a pixel belongs to a class, by class."""
    temperature: dict[str, float]
    """Divisor of the logits before the sigmoid, by class."""
    sha256: str
    """Of the weights file."""
    provenance: dict[str, Any]
    """What the weights were trained on, how, and by which version; for people."""
    familiarity: FamiliarityModel | None
    """Judges whether an image is like the training images; None for weights that were not calibrated."""
    share_cuts: ShareCuts | None
    """For the interval of the infected share; None likewise."""

    @property
    def option(self) -> str:
        """What a command line needs to mean this model, " --model FILE"; "" for the default one.

        Without the file's folder: it stands in reasons that visitors of a page read too.
        """
        if self.weights.parent.resolve() != SHIPPED.resolve():
            return f" --model {self.weights.name}"
        return "" if self.name == "cxr" else f" --model {self.name}"


def find(model: str | Path, *, check_graph: bool = True) -> ModelFiles:
    """Find a model by the name of a shipped one ("cxr") or by the path of its weights.

    Raises WeightsError when the file is missing or is not ours, or when the graph beside it was made from
    other weights; `check_graph=False` leaves the last out, for the export that is about to replace that graph.
    """
    shipped = isinstance(model, str) and _PLAIN_NAME.fullmatch(model)
    weights = SHIPPED / f"{model}.safetensors" if shipped else Path(model)
    if not weights.is_file():
        raise WeightsError(f"{model}: there is no weights file {weights}")
    header = _read_metadata(weights)
    graph, reference = weights.with_suffix(".onnx"), weights.with_suffix(".reference.npz")
    try:
        config = ModelConfig.from_dict(json.loads(header["config"]))
        files = ModelFiles(
            name=header["name"],
            weights=weights,
            graph=graph if graph.is_file() else None,
            reference=reference if reference.is_file() else None,
            config=config,
            thresholds=_per_class("threshold", json.loads(header["thresholds"]), config, largest=1.0),
            temperature=_per_class("temperature", json.loads(header["temperature"]), config),
            sha256=_sha256(weights),
            provenance=dict(json.loads(header["provenance"])),
            familiarity=_familiarity(weights),
            share_cuts=ShareCuts.from_dict(json.loads(header["share_cuts"])) if "share_cuts" in header else None,
        )
    except KeyError as error:
        raise WeightsError(f"{weights.name}: the header lacks {error}") from error
    except (ConfigError, TypeError, ValueError) as error:
        raise WeightsError(f"{weights.name}: the header cannot be used: {error}") from error
    if check_graph:
        _verify_sums(files)
        if files.graph is not None:
            verify_graph(files)
    return files


def verify_graph(files: ModelFiles) -> Path:
    """The graph beside the weights; raises WeightsError when there is none or it does not name these weights."""
    repair = f"python -m export onnx{files.option} --weights-in-place"
    if files.graph is None:
        graph = files.weights.with_suffix(".onnx").name
        raise WeightsError(f"there is no graph {graph} beside {files.weights.name}; {repair} makes it")
    if graph_metadata(files.graph).get("weights_sha256") != files.sha256:
        raise WeightsError(
            f"{files.graph.name} was made from other weights than {files.weights.name}; {repair} makes it again"
        )
    return files.graph


def _verify_sums(files: ModelFiles) -> None:
    """Raise WeightsError when the folder lists SHA-256 sums, as sha256sum writes them, and a file has another one."""
    listed = files.weights.with_name("SHA256SUMS")
    if not listed.is_file():
        return
    lines = [line.split(maxsplit=1) for line in listed.read_text(encoding="utf-8").splitlines()]
    sums = {parts[1].lstrip("*"): parts[0].lower() for parts in lines if len(parts) == 2}
    for path in (files.weights, files.graph):
        if path is not None and path.name in sums and _sha256(path) != sums[path.name]:
            raise WeightsError(
                f"{path.name} is damaged or was replaced, its SHA-256 is not the one in SHA256SUMS; "
                "get it again, or write SHA256SUMS anew if the file is your own"
            )


def save(
    path: str | Path,
    network: SGMSNet,
    *,
    name: str,
    thresholds: Mapping[str, float] | None = None,
    temperature: Mapping[str, float] | None = None,
    provenance: Mapping[str, Any] | None = None,
    familiarity: FamiliarityModel | None = None,
    share_cuts: ShareCuts | None = None,
) -> Path:
    """Write a network as safetensors: the same network gives the same bytes. Returns the path.

    Tensors of one dimension and those of familiarity are FP32, all others FP16. Thresholds default to 0.5 and
    temperatures to 1. Heads of deep supervision serve training alone and are left out, so the stored configuration has
    none. Raises WeightsError for values that are not finite or that FP16 cannot hold.
    """
    config = replace(network.config, deep_supervision=False)
    metadata = {
        "format": FORMAT,
        "name": name,
        "config": json.dumps(config.to_dict(), sort_keys=True),
        "provenance": json.dumps(dict(provenance or {}), sort_keys=True),
        **_calibration(
            config,
            dict.fromkeys(config.classes, 0.5) if thresholds is None else thresholds,
            dict.fromkeys(config.classes, 1.0) if temperature is None else temperature,
            share_cuts,
        ),
    }
    tensors = {
        key: _stored(key, value.detach().cpu().float().numpy())
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked") and not key.startswith("side_heads.")
    }
    return _write(Path(path), tensors | _tensors(familiarity), metadata)


def recalibrate(
    files: ModelFiles,
    path: str | Path,
    *,
    thresholds: Mapping[str, float],
    temperature: Mapping[str, float],
    familiarity: FamiliarityModel | None,
    share_cuts: ShareCuts | None,
) -> Path:
    """Write the weights of `files`, bit for bit, with another calibration in their header; needs no torch.

    Returns the path, which may be that of `files`. Raises WeightsError for values out of range.
    """
    metadata = _read_metadata(files.weights)
    metadata.pop("share_cuts", None)
    metadata |= _calibration(files.config, thresholds, temperature, share_cuts)
    kept = {key: value for key, value in load_file(files.weights).items() if not key.startswith(PREFIX)}
    return _write(Path(path), kept | _tensors(familiarity), metadata)


def _calibration(
    config: ModelConfig,
    thresholds: Mapping[str, float],
    temperature: Mapping[str, float],
    share_cuts: ShareCuts | None,
) -> dict[str, str]:
    """The entries of the header that say how to read the logits."""
    entries: dict[str, Any] = {
        "thresholds": _per_class("threshold", thresholds, config, largest=1.0),
        "temperature": _per_class("temperature", temperature, config),
    }
    if share_cuts is not None:
        entries["share_cuts"] = share_cuts.to_dict()
    return {key: json.dumps(value, sort_keys=True) for key, value in entries.items()}


def _tensors(familiarity: FamiliarityModel | None) -> dict[str, np.ndarray]:
    return {} if familiarity is None else familiarity.tensors()


def _familiarity(weights: Path) -> FamiliarityModel | None:
    with safe_open(weights, framework="np") as file:
        stored = {key: file.get_tensor(key) for key in file.keys() if key.startswith(PREFIX)}  # noqa: SIM118
    return FamiliarityModel.from_tensors(stored) if stored else None


def _write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Path:
    # In one order, since the safetensors package reads the header in another one each time.
    ordered = {key: metadata[key] for key in (*_HEADER, *sorted(set(metadata) - set(_HEADER))) if key in metadata}
    temporary = path.with_name(path.name + ".part")
    try:
        write_safetensors(temporary, tensors, ordered)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load_network(files: ModelFiles) -> SGMSNet:
    """Build the network in eval mode with FP32 parameters; tensors it does not know are left alone.

    Raises WeightsError when a tensor is missing or has another shape than the configuration says.
    """
    import torch
    from safetensors.torch import load_file as load_tensors

    from sgmsnet.model import SGMSNet

    with torch.device("meta"):  # no memory, no random numbers: every value comes from the file
        network = SGMSNet(files.config)
    stored = load_tensors(files.weights)
    state: dict[str, Tensor] = {}
    for key, value in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros((), dtype=torch.long)
        elif key not in stored:
            raise WeightsError(f"{files.weights.name}: the tensor {key} is missing")
        elif stored[key].shape != value.shape:
            raise WeightsError(f"{files.weights.name}: {key} has the shape {tuple(stored[key].shape)}")
        else:
            state[key] = stored[key].float()
    network.load_state_dict(state, assign=True)
    return network.eval()


def load_encoder_file(path: str | Path) -> dict[str, Tensor]:
    """Read ImageNet weights that the user names, .safetensors or torch's .pth, for `model.load_encoder`.

    Only tensors are read from a .pth, never code. Raises WeightsError for any other file.
    """
    import pickle  # for the name of the error that torch raises; nothing here unpickles

    import torch
    from safetensors.torch import load_file as load_tensors

    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            return load_tensors(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsError(f"{path.name}: this is not a file of tensors") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"{path.name}: this is not a table of tensors by name")
    return dict(state)


def _read_metadata(weights: Path) -> dict[str, str]:
    try:
        with safe_open(weights, framework="np") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{weights.name}: this is not a safetensors file, or it is truncated") from error
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"{weights.name}: this safetensors file does not hold an SGMSNet ({FORMAT})")
    return dict(metadata)


def _per_class(
    what: str, values: Mapping[str, float], config: ModelConfig, *, largest: float = math.inf
) -> dict[str, float]:
    if set(values) != set(config.classes):
        raise WeightsError(f"there must be one {what} for each of {', '.join(config.classes)}")
    result = {key: float(values[key]) for key in config.classes}
    if not all(0 < value < largest for value in result.values()):
        raise WeightsError(f"a {what} is outside its range: {result}")
    return result


def _stored(key: str, value: np.ndarray) -> np.ndarray:
    # One dimension stays FP32: TensorRT for RTX crashes on batch-norm vectors that pass through a Cast.
    if not np.isfinite(value).all():
        raise WeightsError(f"{key} has values that are not finite")
    if value.ndim < 2:
        return value.astype("<f4")
    if np.abs(value).max(initial=0) > LARGEST_FP16:
        raise WeightsError(f"{key} has values that FP16 cannot hold")
    return value.astype("<f2")


def _sha256(path: Path) -> str:
    status = path.stat()
    return _sha256_of_version(path.resolve(), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _sha256_of_version(path: Path, _mtime_ns: int, _size: int) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
