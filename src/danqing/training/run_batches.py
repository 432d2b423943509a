"""The batches of a run: images or codes, perhaps with others beside them or chosen by noise."""

from typing import NamedTuple

import torch

from danqing.data import Batches, Dataset
from danqing.data.order import PoissonOrder
from danqing.data.splits import Held
from danqing.training import adapting, generated, pairing, pseudo_labels, trajectories
from danqing.training.added_images import MixedBatches, Pool
from danqing.training.codes import CodedBatches, Codes, augmentation, batch_options
from danqing.training.config import RunConfig
from danqing.training.listener import Listener
from danqing.training.private_gradients import Noise
from danqing.training.run_folder import RunFolder


class Material(NamedTuple):
    """What a run learns from.

    config: completed for the data.
    held: the images that are held out. codes: of the images, in a second stage.
    folder: of the run, which keeps what is prepared once.
    """

    config: RunConfig
    dataset: Dataset
    held: Held | None
    codes: Codes | None
    folder: RunFolder
    device: torch.device

    @property
    def is_prepared_first(self) -> bool:
        """Return whether preparing the batches may take long."""
        data, model = self.config.data, self.config.model
        has_prior = self.config.adapter is not None and self.config.adapter.prior
        added = data.generated or data.unlabelled or has_prior
        return bool(added or model.noise_chooses_images or model.learns_trajectories)


def open_batches(
    material: Material, listener: Listener, *, is_begun: bool, noise: Noise | None = None
) -> Batches:
    """Return the batches of a run; each process reads its own rows.

    is_begun: whether the run has begun, and has prepared what is prepared once.
    noise: of a private run.
    """
    config, dataset, codes = material.config, material.dataset, material.codes
    options = batch_options(config, dataset, material.device)
    if noise is not None:
        order = PoissonOrder(len(dataset), config.batch_size, noise.key)
        options |= {"order": order, "seed": noise.seed}
    if codes is None:
        options["augment"] = augmentation(config, dataset)
    if config.model.learns_trajectories:
        return trajectories.open_batches(config, dataset, codes, listener, **options)
    if codes is not None:
        return CodedBatches(dataset, codes, **options)
    if config.adapter is not None and config.adapter.prior:
        pool = adapting.prior_pool(config, material.folder, dataset.size, listener)
        return MixedBatches(dataset, pool, share=config.adapter.prior, **options)
    if config.data.generated or config.data.unlabelled:
        pool, share = _added_images(material, listener)
        return MixedBatches(dataset, pool, share=share, **options)
    if not config.model.noise_chooses_images:
        return Batches(dataset, **options)
    file = material.folder.transport_file
    return pairing.open_batches(dataset, file, listener, is_begun=is_begun, **options)


def _added_images(material: Material, listener: Listener) -> tuple[Pool, float]:
    """Return the images that the run learns from besides its data, and their share."""
    config, dataset, held, _, folder, device = material
    data = config.data
    if data.generated:
        return generated.open_pool(config, dataset, folder, device, listener), data.generated
    return pseudo_labels.open_pool(config, dataset, held, folder, listener), data.unlabelled_share
