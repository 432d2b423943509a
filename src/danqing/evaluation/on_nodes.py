"""Samples and features, batch by batch: here, or on the nodes of a cluster, with the same results."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.cluster.ray_jobs import RayCluster
from danqing.errors import EvaluationError
from danqing.evaluation.contract import FeatureNetwork, ImageSet
from danqing.evaluation.networks import open_network
from danqing.families.pipeline import Pipeline
from danqing.images import Pixels
from danqing.model import folder as model_folder
from danqing.model.files import CONFIG, WEIGHTS, ModelFiles
from danqing.model.model import Model
from danqing.precision import Precision, exact


@dataclass(frozen=True, slots=True)
class Drawn:
    """A batch to sample: for each image its seed, and its label and prompt where the model has them."""

    seeds: Sequence[int]
    labels: Sequence[int] | None
    prompts: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class NetworkChoice:
    """How each node opens the feature network: the arguments of `open_network`.

    Files must lie under the same paths there.
    """

    name: str | Path
    weights: Path | None
    precision: Precision

    def absolute(self) -> "NetworkChoice":
        """Return the same with absolute paths, since a node works in another folder."""
        name = Path(self.name).absolute() if Path(self.name).exists() else self.name
        weights = self.weights
        if weights is not None and weights.exists():
            weights = weights.absolute()
        return NetworkChoice(name if Path(name).suffix == ".onnx" else self.name, weights, self.precision)


def sample(model: Model, batch: Drawn) -> Pixels:
    """Sample a batch without marks: uint8 or uint16, `[n, h, w, c]`."""
    with exact():
        seeds, label, prompt = batch.seeds, batch.labels, batch.prompts
        return model.unmarked().sample(len(seeds), seeds=seeds, label=label, prompt=prompt).array


class Nodes:
    """The nodes of a cluster, at work for one evaluation.

    Each computes with as many threads as this machine would, since a result may depend on their number.

    device: "cpu" or "cuda".
    """

    def __init__(self, cluster: RayCluster, device: str, choice: NetworkChoice) -> None:
        self._cluster, self._device, self._choice = cluster, device, choice
        self._threads = torch.get_num_threads()
        self._gpus = cluster.gpus_for(device)
        usable = [node.cpus for node in cluster.nodes() if node.gpus >= self._gpus]
        self._cpus = min(self._threads, max(usable, default=1))

    def samples(self, model: Model, batches: Iterable[Drawn]) -> Iterator[Pixels]:
        """Yield the images of each batch, in their order."""
        common = {"model": _packed(model), "device": self._device, "threads": self._threads}
        return self._cluster.compute(_open_model, sample, common, batches, cpus=self._cpus, gpus=self._gpus)

    def features(
        self, network: FeatureNetwork, images: ImageSet, batches: Iterable[NDArray[np.int64]]
    ) -> Iterator[Tensor]:
        """Yield the features of the images at the rows of each batch, float32 `[n, d]`."""
        common = {"choice": self._choice, "device": self._device, "threads": self._threads}
        common["sha256"] = network.sha256
        pixels = (images.images(rows).numpy() for rows in batches)
        for found in self._cluster.compute(
            _open_network, _features, common, pixels, cpus=self._cpus, gpus=self._gpus
        ):
            yield torch.from_numpy(np.array(found))


@contextmanager
def opened(address: str | None, device: torch.device, choice: NetworkChoice | None) -> Iterator[Nodes | None]:
    """Open the nodes of a Ray cluster; None for this machine.

    choice: None for a module of the user's, which is code and cannot be sent.

    Raises ClusterError and EvaluationError.
    """
    if address is None:
        yield None
        return
    if choice is None:
        raise EvaluationError("A module cannot be sent to a cluster: name a feature network or an ONNX file.")
    with RayCluster(address) as cluster:
        yield Nodes(cluster, device.type, choice.absolute())


def _packed(model: Model) -> dict[str, bytes]:
    if isinstance(model.family, Pipeline):
        raise EvaluationError("A pipeline of diffusers is not sent to other nodes: leave ray out.")
    with tempfile.TemporaryDirectory(prefix="danqing-model-") as folder:
        model_folder.write(Path(folder), model.family, model.facts, model.info())
        return {name: (Path(folder) / name).read_bytes() for name in (CONFIG, WEIGHTS)}


def _open_model(common: dict[str, Any]) -> Model:
    torch.set_num_threads(common["threads"])
    contents = {name: memoryview(bytearray(content)) for name, content in common["model"].items()}
    family, facts = model_folder.read(ModelFiles(Path("the model that was sent"), contents=contents))
    return Model(family, facts).to(common["device"])


def _open_network(common: dict[str, Any]) -> FeatureNetwork:
    torch.set_num_threads(common["threads"])
    choice = common["choice"]
    network = open_network(
        choice.name, weights=choice.weights, device=common["device"], precision=choice.precision
    )
    if network.sha256 != common["sha256"]:
        raise EvaluationError(
            f"A node has other weights of {network.name} than this machine: install the same on all nodes."
        )
    return network


def _features(network: FeatureNetwork, pixels: NDArray[Any]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = network.features(torch.from_numpy(np.array(pixels))).contiguous().numpy()
    return found
