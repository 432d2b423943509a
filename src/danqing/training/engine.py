"""One training step: every phase's loss, its optimiser's update, and the moving average."""

import functools
import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from danqing import families, machine
from danqing.data import Batches
from danqing.errors import TrainingError
from danqing.evaluation.networks import open_teacher
from danqing.families import PIPELINE
from danqing.families.abilities import Grows, HasGuide, HasTokenizer, Perceives, StartsTrained
from danqing.families.base import Batch, Learner, Losses, Phase
from danqing.nets import adapters
from danqing.nets.layers import shrunk
from danqing.precision import Precision, autocast
from danqing.randomness import derived_seed, generator
from danqing.training import adapting, burn_in, optimizers
from danqing.training.config import RunConfig
from danqing.training.ema import EMA, HalfLife, PowerFunction
from danqing.training.grains import Grains
from danqing.training.meter import Meter
from danqing.training.parts import Parts, is_here
from danqing.training.private_gradients import PrivateGradients
from danqing.training.schedule import learning_rate_factor
from danqing.training.snapshots import Averages
from danqing.training.teacher import Teacher
from danqing.training.transfer import Carried


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
        start: Carried | None = None,
        grains: Grains | None = None,
    ) -> None:
        self.config, self.batches, self.device, self.precision = config, batches, device, precision
        learner = initialise(config, tokenizer, start, device)
        self.teacher: Teacher | None = None
        if config.teacher and not config.model.learns_trajectories:
            self.teacher = Teacher(config.teacher, config.model, device)
        if self.teacher is not None and start is None:
            self.teacher.lend(learner)
        self.learner = learner.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.phases = self.learner.phases()
        self._fixed = adapters.fixed(self.learner)
        """The tensors that this run does not change, as it trains an adapter; no checkpoint holds them."""
        self.averages = _averages(self.learner, config)
        self.ema = self.averages[0]
        self.networks: tuple[dict[str, str], ...] = ()
        """The name and the sha256 of each network whose features the loss is computed in."""
        if isinstance(self.learner, Perceives) and self.learner.perceptual_network:
            network = open_teacher(self.learner.perceptual_network, device=device)
            self.learner.perceive(network.perceive)
            self.networks = ({"name": network.name, "sha256": network.sha256},)
        self.private: PrivateGradients | None = None
        """Computes the gradients of phases that see data, in a private run."""
        if config.private is not None:
            self.private = PrivateGradients(config.private, self.learner, config.batch_size)
        self.meter = Meter()
        self.optimizers = optimizers.build_each(
            config.optimizer,
            {phase.name: self._parameters(phase) for phase in self.phases},
            self.learner.parameter_kind,
        )
        repeats = max(phase.repeats for phase in self.phases)
        self.images_per_step = config.batch_size * repeats
        self.data_seconds = 0.0
        """How long steps have waited for their images."""
        self.micro_batch = config.micro_batch
        """How many images of a batch are computed at once; fewer need less memory."""
        self.grains = grains
        if grains is not None and grains.size < self.fewest_at_once:
            raise TrainingError(
                f"A grain of {grains.size} image is too small for batch norm: raise batch_size to "
                f"{self.fewest_at_once * grains.count} or more, or lower training.grains."
            )
        self._owners = self._owners_of_state()
        self.parts = self._parts()
        """The parameters that processes share among them; None if each has all of them."""

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
        drawn: list[list[Batch]] = []  # phases of one step see the same images
        broken = torch.zeros((), device=self.device)
        for phase in self.phases:
            optimizer, parameters = self.optimizers[phase.name], [p for _, p in self._parameters(phase)]
            for group in optimizer.param_groups:
                group["lr"] = self.config.optimizer.learning_rate * phase.learning_rate_scale * factor
                if "betas" in group:
                    group["betas"] = burn_in.betas(self.config.optimizer, burnt_in)
            for repeat in range(phase.repeats):
                if repeat == len(drawn):
                    drawn.append(self._drawn(images + repeat * self.config.batch_size, level))
                batches = drawn[repeat]
                if self.private and not phase.sees_data:
                    seen = images + repeat * self.config.batch_size
                    batches = [self.private.batch_without_data(batch, seen) for batch in batches]
                broken = broken + self.compute_gradients(phase, batches, step, repeat)
                if self.config.training.clip_norm:
                    norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.training.clip_norm)
                    self.meter.add(phase.name, {"gradient_norm": norm})
                self._take_step(phase)
        for average in self.averages:
            average.update(images + self.images_per_step, self.images_per_step, begins)
        self._take_guide(images + self.images_per_step, total)
        return broken

    def _take_step(self, phase: Phase) -> None:
        """Take a step of the optimiser; where it is sharded, get what others have stepped.

        An optimiser changes each parameter by itself, so it does not matter which process does so.
        """
        optimizer = self.optimizers[phase.name]
        if self._owners is None or self.grains is None:
            optimizer.step()
            return
        here, parameters = self.grains.world, self._parameters(phase)
        for name, parameter in parameters:
            if self._owners[name] != here.rank:
                parameter.grad = None  # it keeps no state then, and the parameter stays
        optimizer.step()
        whole = [
            (name, p.data) for name, p in parameters if self.parts is None or name not in self.parts.names
        ]
        for rank in range(here.size):
            here.spread([values for name, values in whole if self._owners[name] == rank], rank)

    def _owners_of_state(self) -> dict[str, int] | None:
        """Return which process steps each parameter, by name; None if each process steps all of them."""
        if self.grains is None or not self.grains.exchanges or not self.config.training.shard:
            return None
        size = self.grains.world.size
        owned = [optimizers.owners(self._parameters(phase), size) for phase in self.phases]
        return {name: rank for each in owned for name, rank in each.items()}

    def _parts(self) -> Parts | None:
        """Divide the parameters of blocks among the processes, if the configuration says so."""
        if self._owners is None or self.grains is None or self.config.training.shard != "parameters":
            return None
        averages = [average.learner for average in self.averages]
        parts = Parts(self.learner, averages, self._owners, self.grains.world)
        return parts if parts.names else None

    def parts_in_words(self) -> str:
        """Return what is in parts, as a sentence."""
        numbers = {name: p.numel() for phase in self.phases for name, p in self._parameters(phase)}
        if self.parts is None:
            return "This network has no blocks to divide: only the state of the optimiser is in parts."
        share = sum(numbers[name] for name in self.parts.names) / sum(numbers.values())
        return f"Each process keeps a part of the blocks, which hold {share:.0%} of all parameters."

    def _take_guide(self, images: int, total: int) -> None:
        """Copy the average to the guide, once, when its share of the run is over."""
        learner, average = self.learner, self.ema.learner
        if not isinstance(learner, HasGuide) or learner.guide is None or learner.guide_taken or self._fixed:
            return
        if images >= learner.GUIDE_SHARE * total and isinstance(average, HasGuide):
            if self.parts:
                self.parts.gather_averages(keeps=True)
            learner.take_guide(average)
            self.release()

    def learning_rate(self, images: int, total: int, learning_rate_scale: float) -> float:
        """The learning rate at `images`, before the phases' own scales."""
        factor = learning_rate_factor(self.config.schedule, images, total)
        return self.config.optimizer.learning_rate * learning_rate_scale * factor

    def release(self) -> None:
        """Drop the parameters that other processes keep, if they are in parts."""
        if self.parts:
            self.parts.release()

    def weights_are_finite(self) -> bool:
        """Return whether every weight and every average is a number.

        Where they are in parts, all processes take part.
        """
        finite = all(bool(torch.isfinite(each).all()) for each in self._weights().values() if is_here(each))
        if self.parts is None or self.grains is None:
            return finite
        return all(self.grains.world.gathered(finite))

    def averaged(self) -> Averages:
        """Return what is averaged, for each EMA length; nothing if the average has a half-life."""
        lengths = self.config.training.ema_lengths
        return {length: self.averages[number].averaged() for number, length in enumerate(lengths)}

    def tensors(self) -> dict[str, Tensor]:
        """The whole state, named for a checkpoint; of parameters in parts, what is here."""
        tensors = self._weights() | self.shared() | self.own()
        return {name: tensor for name, tensor in tensors.items() if is_here(tensor)}

    def own(self) -> dict[str, Tensor]:
        """The part of the state that only this process has, or that counts only where the log is kept."""
        mine = self.parts.mine if self.parts else set()
        tensors = {name: value for name, value in self._weights().items() if _parameter(name) in mine}
        if self.grains is None or self.grains.world.rank == 0:
            tensors |= {f"meter/{name}": value for name, value in self.meter.sums.items()}
        return tensors if self._owners is None else tensors | self._optimizer_tensors()

    def shared(self) -> dict[str, Tensor]:
        """The part of the state that is the same in all processes of the run."""
        in_parts = self.parts.names if self.parts else set()
        tensors = {name: value for name, value in self._weights().items() if _parameter(name) not in in_parts}
        return tensors | self._optimizer_tensors() if self._owners is None else tensors

    def keeps(self, name: str) -> bool:
        """Return whether this process keeps a tensor of a checkpoint, or all processes do."""
        of, _, rest = name.partition("/")
        if of != "optimizer":
            return self.parts is None or rest not in self.parts.names or rest in self.parts.mine
        parameter = rest.rpartition("/")[0].partition("/")[2]
        return (
            self._owners is None or self.grains is None or self._owners[parameter] == self.grains.world.rank
        )

    def _weights(self) -> dict[str, Tensor]:
        """Return the state of the learner and of its averages."""
        states = {"family/": self.learner.state_dict()}
        for prefix, average in zip(_prefixes(self.config), self.averages, strict=True):
            states[prefix] = average.learner.state_dict()
        return {
            f"{prefix}{name}": value
            for prefix, state in states.items()
            for name, value in state.items()
            if name not in self._fixed
        }

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        """Return the state that the optimisers keep in this process."""
        return {
            f"optimizer/{phase.name}/{name}": value
            for phase in self.phases
            for name, value in optimizers.state_tensors(
                self.optimizers[phase.name], self._parameters(phase)
            ).items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor], meter_counts: Mapping[str, int]) -> None:
        """Put back what `tensors` gave, in this process or in several together.

        tensors: at least those that this process keeps.
        Afterwards each process has all parameters, until `release`.
        """
        if self.parts:
            self.parts.allocate()
        is_whole = self.parts is None and not self._fixed  # else what others keep may be missing
        self.learner.load_state_dict(_below(tensors, "family/"), strict=is_whole)
        for average, state in zip(self.averages, averages_in(tensors, self.config), strict=True):
            average.learner.load_state_dict(state, strict=is_whole)
        self.meter.sums = {name: value.to(self.device) for name, value in _below(tensors, "meter/").items()}
        self.meter.counts = dict(meter_counts)
        kept = {name: value for name, value in tensors.items() if self.keeps(name)}
        for phase in self.phases:
            state = _below(kept, f"optimizer/{phase.name}/")
            optimizers.load_state_tensors(self.optimizers[phase.name], self._parameters(phase), state)

    def _drawn(self, images: int, level: int) -> list[Batch]:
        """Return the batch after `images`, with sides that are halved `level` times by averaging pixels.

        A batch of grains is a list of those that this process computes.
        """
        parts = [None] if self.grains is None else self.grains.rows_of_each
        started = time.perf_counter()
        batches = [self.batches.at(images, rows) for rows in parts]
        self.data_seconds += time.perf_counter() - started
        if not level:
            return batches
        return [batch.mapped(functools.partial(shrunk, halvings=level)) for batch in batches]

    def compute_gradients(self, phase: Phase, batches: Sequence[Batch], step: int, repeat: int) -> Tensor:
        """Compute the gradients of a phase on a batch; returns the sum of its losses.

        A batch of grains is given as a list of them. Another one is computed in parts of `micro_batch`
        images. When memory runs out, all of it is computed again with half as many images at once, and so are
        all later batches.

        Raises TrainingError if memory is too small for the smallest part.
        """
        self._train_only(phase)
        while True:
            try:
                parts = self._in_parts(phase, batches, step, repeat)
                break
            except RuntimeError as error:  # such as torch.OutOfMemoryError
                if not machine.is_out_of_memory(error):
                    raise
            # Here the error is gone, and with it the tensors that its traceback refers to.
            self._halve_micro_batch()
        for losses in parts:
            self.meter.add(phase.name, losses.logged)
        return torch.stack([losses.total for losses in parts]).sum()

    def _in_parts(self, phase: Phase, batches: Sequence[Batch], step: int, repeat: int) -> list[Losses]:
        """Add up the gradients of the parts of a batch; returns the losses of each part, detached.

        The losses of images in a private run are not returned: nobody must see them.
        """
        if self.grains is not None:
            parameters = [parameter for _, parameter in self._parameters(phase)]
            loss = functools.partial(self._loss, phase, step, repeat)
            losses = self.grains.compute(self.learner, parameters, batches, loss)
            self.release()
            return [losses]
        (batch,) = batches
        if self.private and phase.sees_data:
            length = self.private.compute(
                phase,
                self._parameters(phase),
                batch,
                (step, repeat),
                micro_batch=self.micro_batch,
                precision=self.precision,
            )
            return [Losses(torch.zeros((), device=self.device), {"noisy_gradient_norm": length})]
        self.optimizers[phase.name].zero_grad(set_to_none=True)
        parts, count = [], -(-len(batch) // self.micro_batch)
        for part in range(count):
            rows = slice(part * len(batch) // count, (part + 1) * len(batch) // count)
            some = batch if count == 1 else batch[rows]
            losses = self._loss(phase, step, repeat, some, part)
            (losses.total * (len(some) / len(batch))).backward()
            total = losses.total.detach()
            parts.append(Losses(total, {"loss": total, **losses.logged}))
        return parts

    def _loss(self, phase: Phase, step: int, repeat: int, batch: Batch, part: int) -> Losses:
        """Compute the loss of a part or a grain of a batch."""

        def rng() -> torch.Generator:
            return generator(self.config.seed, f"loss/{phase.name}", step, repeat, part, device=self.device)

        with autocast(self.precision, self.device):
            if self.teacher is not None:
                return self.teacher.losses(self.learner, batch, phase, rng)
            losses: Losses = self.learner.loss(batch, phase, rng())
        return losses

    def _halve_micro_batch(self) -> None:
        if self.grains is not None:
            raise TrainingError(
                f"Memory is too small for a grain of {self.grains.size} images: set checkpointing=on, "
                "free memory, or begin a run with more training.grains or a smaller network."
            )
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
            if f"{module}.{name}" not in self._fixed
        ]

    def _train_only(self, phase: Phase) -> None:
        if len(self.phases) == 1:
            return
        for name, module in self.learner.named_children():
            module.requires_grad_(name in phase.modules)
        for name, parameter in self.learner.named_parameters():
            if name in self._fixed:
                parameter.requires_grad_(False)


def initialise(
    config: RunConfig,
    tokenizer: Learner | None = None,
    start: Carried | None = None,
    device: torch.device | str = "cpu",
) -> Learner:
    """Build the learner with weights that follow from the run's seed.

    tokenizer: trained before it; its weights are taken and stay as they are.
    start: weights of a trained model, instead of those that follow from the seed.
    device: where a pipeline is loaded.
    torch's global generator is left as it was.
    """
    if config.family == PIPELINE:
        return adapting.opened(config, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed, "weights"))
        learner = families.build_learner(config.model)
    if isinstance(learner, StartsTrained):
        learner.load_published()
    if isinstance(learner, HasTokenizer):
        if tokenizer is not None:
            learner.tokenizer.load_state_dict(tokenizer.state_dict())
        learner.tokenizer.requires_grad_(False)
    if start is not None:
        start.apply(learner)
    if config.adapter is not None:
        adapting.attach(learner, config)
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


def _parameter(name: str) -> str:
    """Return the name within a learner of a tensor of a checkpoint."""
    return name.partition("/")[2]


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
