"""One training step: every phase's loss, its optimiser's update, and the moving average."""

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from danqing import families, machine
from danqing.data import Batches
from danqing.errors import TrainingError
from danqing.evaluation.networks import open_teacher
from danqing.families.abilities import Grows, HasGuide, HasTokenizer, Perceives
from danqing.families.base import Batch, Learner, Losses, Phase
from danqing.nets.layers import shrunk
from danqing.precision import Precision, autocast
from danqing.randomness import derived_seed, generator
from danqing.training import burn_in, optimizers
from danqing.training.config import RunConfig
from danqing.training.ema import EMA, HalfLife, PowerFunction
from danqing.training.meter import Meter
from danqing.training.schedule import learning_rate_factor
from danqing.training.snapshots import Averages


class Engine:
    """A learner, its optimisers and its average: everything that a checkpoint must hold, and the step that
    moves it.

    A step is a function of that state, the configuration and the images seen: nothing else is random.
    """

    def __init__(
        self,
        config: RunConfig,
        batches: Batches,
        device: torch.device,
        precision: Precision,
        tokenizer: Learner | None = None,
    ) -> None:
        self.config, self.batches, self.device, self.precision = config, batches, device, precision
        learner = initialise(config, tokenizer)
        self.learner = learner.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.phases = self.learner.phases()
        self.averages = _averages(self.learner, config)
        self.ema = self.averages[0]
        self.networks: tuple[dict[str, str], ...] = ()
        """The name and the sha256 of each network whose features the loss is computed in."""
        if isinstance(self.learner, Perceives) and self.learner.perceptual_network:
            network = open_teacher(self.learner.perceptual_network, device=device)
            self.learner.perceive(network.perceive)
            self.networks = ({"name": network.name, "sha256": network.sha256},)
        self.meter = Meter()
        self.optimizers = {
            phase.name: optimizers.build(
                config.optimizer, self._parameters(phase), self.learner.parameter_kind
            )
            for phase in self.phases
        }
        repeats = max(phase.repeats for phase in self.phases)
        self.images_per_step = config.batch_size * repeats
        self.micro_batch = config.micro_batch
        """How many images of a batch are computed at once; fewer need less memory."""

    def step(
        self,
        images: int,
        step: int,
        total: int,
        learning_rate_scale: float = 1.0,
        begins: Sequence[int] | None = None,
    ) -> Tensor:
        """Take one training step at `images` of `total`; the sum of its losses, not finite when training
        broke.

        begins: after how many images each size of a run that grows has begun; the last one is that of this
            step. By default all have.
        """
        levels = self.config.model.grow_levels
        begins = (0,) * len(levels) if begins is None else begins
        level = levels[len(begins) - 1]
        if isinstance(self.learner, Grows) and len(levels) > 1:
            self.learner.level.fill_(level)
        self.learner.on_progress(images)
        self.learner.on_share(min(1.0, images / max(total, 1)))
        burnt_in = burn_in.progress(self.config.schedule, images, total)
        self.learner.on_burn_in(burnt_in)
        factor = learning_rate_scale * learning_rate_factor(self.config.schedule, images, total)
        drawn: list[Batch] = []  # phases of one step see the same images
        broken = torch.zeros((), device=self.device)
        for phase in self.phases:
            optimizer, parameters = self.optimizers[phase.name], [p for _, p in self._parameters(phase)]
            for group in optimizer.param_groups:
                group["lr"] = self.config.optimizer.learning_rate * phase.learning_rate_scale * factor
                if "betas" in group:
                    group["betas"] = burn_in.betas(self.config.optimizer, burnt_in)
            for repeat in range(phase.repeats):
                if repeat == len(drawn):
                    drawn.append(self._batch(images + repeat * self.config.batch_size, level))
                broken = broken + self.compute_gradients(phase, drawn[repeat], step, repeat)
                if self.config.training.clip_norm:
                    norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.training.clip_norm)
                    self.meter.add(phase.name, {"gradient_norm": norm})
                optimizer.step()
        for average in self.averages:
            average.update(images + self.images_per_step, self.images_per_step, begins)
        self._take_guide(images + self.images_per_step, total)
        return broken

    def _take_guide(self, images: int, total: int) -> None:
        """Copy the average to the guide, once, when its share of the run is over."""
        learner, average = self.learner, self.ema.learner
        if not isinstance(learner, HasGuide) or learner.guide is None or learner.guide_taken:
            return
        if images >= learner.GUIDE_SHARE * total and isinstance(average, HasGuide):
            learner.take_guide(average)

    def learning_rate(self, images: int, total: int, learning_rate_scale: float) -> float:
        """The learning rate at `images`, before the phases' own scales."""
        factor = learning_rate_factor(self.config.schedule, images, total)
        return self.config.optimizer.learning_rate * learning_rate_scale * factor

    def weights_are_finite(self) -> bool:
        """Whether every weight and every average is a number."""
        learners = [self.learner, *(average.learner for average in self.averages)]
        tensors = [tensor for learner in learners for tensor in learner.state_dict().values()]
        return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)

    def averaged(self) -> Averages:
        """Return what is averaged, for each EMA length; nothing if the average has a half-life."""
        lengths = self.config.training.ema_lengths
        return {length: self.averages[number].averaged() for number, length in enumerate(lengths)}

    def tensors(self) -> dict[str, Tensor]:
        """The whole state, named for a checkpoint."""
        tensors = {f"family/{name}": value for name, value in self.learner.state_dict().items()}
        for prefix, average in zip(_prefixes(self.config), self.averages, strict=True):
            tensors |= {f"{prefix}{name}": value for name, value in average.learner.state_dict().items()}
        tensors |= {f"meter/{name}": value for name, value in self.meter.sums.items()}
        for phase in self.phases:
            state = optimizers.state_tensors(self.optimizers[phase.name], self._parameters(phase))
            tensors |= {f"optimizer/{phase.name}/{name}": value for name, value in state.items()}
        return tensors

    def load_tensors(self, tensors: Mapping[str, Tensor], meter_counts: Mapping[str, int]) -> None:
        """Put back what `tensors` gave."""
        self.learner.load_state_dict(_below(tensors, "family/"))
        for average, state in zip(self.averages, averages_in(tensors, self.config), strict=True):
            average.learner.load_state_dict(state)
        self.meter.sums = {name: value.to(self.device) for name, value in _below(tensors, "meter/").items()}
        self.meter.counts = dict(meter_counts)
        for phase in self.phases:
            state = _below(tensors, f"optimizer/{phase.name}/")
            optimizers.load_state_tensors(self.optimizers[phase.name], self._parameters(phase), state)

    def _batch(self, images: int, level: int) -> Batch:
        """Return the batch after `images`, with sides that are halved `level` times by averaging pixels."""
        batch = self.batches.at(images)
        return batch.mapped(functools.partial(shrunk, halvings=level)) if level else batch

    def compute_gradients(self, phase: Phase, batch: Batch, step: int, repeat: int) -> Tensor:
        """Compute the gradients of a phase on a batch; returns the sum of its losses.

        The batch is computed in parts of `micro_batch` images. When memory runs out, all of it is computed
        again with half as many images at once, and so are all later batches.

        Raises TrainingError if memory is too small for the smallest part.
        """
        self._train_only(phase)
        while True:
            try:
                parts = self._in_parts(phase, batch, step, repeat)
                break
            except RuntimeError as error:  # such as torch.OutOfMemoryError
                if not machine.is_out_of_memory(error):
                    raise
            # Here the error is gone, and with it the tensors that its traceback refers to.
            self._halve_micro_batch()
        for losses in parts:
            self.meter.add(phase.name, {"loss": losses.total, **losses.logged})
        return torch.stack([losses.total for losses in parts]).sum()

    def _in_parts(self, phase: Phase, batch: Batch, step: int, repeat: int) -> list[Losses]:
        """Add up the gradients of the parts of a batch; returns the losses of each part, detached."""
        self.optimizers[phase.name].zero_grad(set_to_none=True)
        parts, count = [], -(-len(batch) // self.micro_batch)
        for part in range(count):
            rows = slice(part * len(batch) // count, (part + 1) * len(batch) // count)
            some = batch if count == 1 else batch[rows]
            rng = generator(self.config.seed, f"loss/{phase.name}", step, repeat, part, device=self.device)
            with autocast(self.precision, self.device):
                losses = self.learner.loss(some, phase, rng)
            (losses.total * (len(some) / len(batch))).backward()
            parts.append(Losses(losses.total.detach(), losses.logged))
        return parts

    def _halve_micro_batch(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        smaller = -(-min(self.micro_batch, self.config.batch_size) // 2)
        if smaller == self.micro_batch or smaller < self.fewest_at_once:
            raise TrainingError(
                f"Memory is too small for {self.micro_batch} images at once: set training.checkpointing=on, "
                "choose a smaller --size or a smaller network, or free memory."
            )
        self.micro_batch = smaller

    @property
    def fewest_at_once(self) -> int:
        """Return the smallest micro-batch: a batch norm needs two images."""
        norms = (nn.BatchNorm1d, nn.BatchNorm2d)
        return 2 if any(isinstance(module, norms) for module in self.learner.modules()) else 1

    def _parameters(self, phase: Phase) -> list[tuple[str, nn.Parameter]]:
        return [
            (f"{module}.{name}", parameter)
            for module in phase.modules
            for name, parameter in self.learner.get_submodule(module).named_parameters()
        ]

    def _train_only(self, phase: Phase) -> None:
        if len(self.phases) == 1:
            return
        for name, module in self.learner.named_children():
            module.requires_grad_(name in phase.modules)


def initialise(config: RunConfig, tokenizer: Learner | None = None) -> Learner:
    """Build the learner with weights that follow from the run's seed.

    tokenizer: trained before it; its weights are taken and stay as they are.
    torch's global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed, "weights"))
        learner = families.build_learner(config.model)
    if isinstance(learner, HasTokenizer):
        if tokenizer is not None:
            learner.tokenizer.load_state_dict(tokenizer.state_dict())
        learner.tokenizer.requires_grad_(False)
    return learner


def averages_in(tensors: Mapping[str, Tensor], config: RunConfig) -> list[dict[str, Tensor]]:
    """Return the state of each average in what `Engine.tensors` returned."""
    return [_below(tensors, prefix) for prefix in _prefixes(config)]


def _averages(learner: Learner, config: RunConfig) -> list[EMA]:
    """The averages that a run keeps; its first is what it shows, scores and publishes."""
    training = config.training
    if training.ema_lengths:
        return [EMA(learner, PowerFunction(length)) for length in training.ema_lengths]
    return [EMA(learner, HalfLife(training.ema_half_life_images))]


def _prefixes(config: RunConfig) -> list[str]:
    """How the tensors of each average begin in a checkpoint."""
    return ["ema/", *(f"ema-{length}/" for length in config.training.ema_lengths[1:])]


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
