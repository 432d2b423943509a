"""A trained model: paint with it, look into its latent space, save it, share it."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing import options as rules
from danqing.errors import ConfigError
from danqing.families.base import (
    Batch,
    Condition,
    Encodes,
    Family,
    Fills,
    HasLikelihood,
    HasTokenLikelihood,
    Interpolates,
    Learner,
    PaintsInSteps,
    Traverses,
    Varies,
)
from danqing.images import Images, to_float, to_uint8
from danqing.model import conditions
from danqing.model import folder as model_folder
from danqing.model.attributes import Attributes
from danqing.model.conditions import Label, Prompt, asked, how_many, known
from danqing.options import Verb
from danqing.randomness import derived_seed, generator

STRENGTH = 0.5
"""Of varying, by default: as far from the image as from another."""
OnPainting = Callable[[int, int, Callable[[], Images]], None]
"""Told while a model paints: steps done, steps in all, and what gives the images as they are by then, those
that are not begun left out. Whoever wants to stop the painting raises an exception of their own."""


class Model:
    """A family with trained weights, ready to paint.

    facts: what is known of its training (images seen, data, licence), as it stands in `config.json`. With
    `other_sizes` "refused", a service hands its pictures out in their own size alone.
    """

    def __init__(self, family: Family, facts: Mapping[str, Any] | None = None) -> None:
        self.family = family.eval().requires_grad_(False)
        self.facts = dict(facts or {})
        self.origin: Path | None = None
        """The folder that it was read from, whose scores go with it while its weights are the same."""

    def __repr__(self) -> str:
        c = self.family.config
        return f"Model({c.family}, {c.width}x{c.height}x{c.channels}, {len(self.labels)} labels)"

    @property
    def labels(self) -> tuple[str, ...]:
        """The names that `sample(label=...)` takes; empty where the model knows none."""
        return self.family.config.labels

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Return the (low, high) of its training images that became black and white.

        None where these had no more than 8 bits.
        """
        bounds = self.facts.get("data", {}).get("prepared", {}).get("range")
        return None if bounds is None else (float(bounds[0]), float(bounds[1]))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.family.parameters()).device

    @property
    def sample_options(self) -> dict[str, Any]:
        """The options that this family's sampling takes beyond a label and seeds, with their defaults."""
        return {**_written(self.family.sample), **self.family.sample_defaults()}

    def options_of(self, verb: Verb) -> dict[str, Any]:
        """The options that a verb which the family has takes beyond images and what they show, with their
        defaults.
        """
        if verb == "sample":
            return self.sample_options
        method = getattr(self.family, verb)
        own = {**({"strength": STRENGTH} if verb == "vary" else {}), **_written(method)}
        passes_on = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(method).parameters.values())
        return {**own, **self.sample_options} if passes_on else own

    def to(self, device: torch.device | str) -> Self:
        """Move the weights; returns self."""
        self.family.to(device)
        return self

    def sample(
        self,
        n: int | None = None,
        *,
        label: Label = None,
        prompt: Prompt = None,
        negative_prompt: Prompt = None,
        attributes: Attributes = None,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        on_step: OnPainting | None = None,
        **options: Any,
    ) -> Images:
        """Paint `n` images, uint8; image i follows from (seed, i), its label or prompt and the options, and
        from nothing else. n: by default as many as there are prompts, labels or seeds, or one.

        label: a class name or index for all, or one per image; None draws them as often as the data had them.
        prompt: a text for all, or one per image; None draws captions that were learnt from, "" asks for
        nothing in particular. negative_prompt: what guidance is to lead away from, likewise. attributes:
        `{"age": 30, "kind": "hat"}` for all, or one such table per image; None is a value that is not known,
        and what is left out is drawn from training images most like the rest. seeds: one per image, instead
        of `seed`. on_step: told as the painting goes on.
        Raises ConfigError for a label, an attribute or an option that is not there, and for what the model
        does not read. Warns of numbers that no training image has.
        """
        n = how_many(label, prompt, seeds, attributes) if n is None else n
        if n < 1:
            raise ConfigError("Ask for at least one image.")
        chosen = _one_seed_each(n, seed, seeds)
        condition = asked(self.family.config, chosen, label, prompt, negative_prompt, attributes)

        def paint(rows: list[int], wanted: Condition, **given: Any) -> Tensor:
            return self.family.sample(wanted, **given)

        return self._painted("sample", paint, condition, chosen, options, on_step)

    def fill(
        self,
        images: Images,
        mask: NDArray[np.bool_],
        *,
        label: Label = None,
        prompt: Prompt = None,
        negative_prompt: Prompt = None,
        attributes: Attributes = None,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        on_step: OnPainting | None = None,
        **options: Any,
    ) -> Images:
        """Images painted anew where `mask` is true, so that it suits the rest, which stays exactly as it is.

        mask: bool `[h, w]` for all, or `[n, h, w]`. label, prompt, attributes: what each image shows; without
        a prompt or an attribute, whatever suits it. Others as of `sample`. Raises ConfigError where the
        family cannot, or as `sample`.
        """
        family, pixels, count = self.family, self._pixels(images), len(images)
        if not isinstance(family, Fills):
            raise ConfigError(f"A {family.config.family} cannot paint a part of an image: use a transformer.")
        chosen = _one_seed_each(count, seed, seeds)
        shape = images.array.shape[:3]
        if mask.dtype != np.bool_ or mask.shape not in (shape, shape[1:]):
            raise ConfigError(
                f"The mask must be true or false for each of {shape[2]}x{shape[1]} pixels, and is "
                f"{mask.dtype} of shape {list(mask.shape)}."
            )
        condition = known(family.config, count, label, prompt, negative_prompt, attributes)
        covered = torch.from_numpy(np.broadcast_to(mask, shape).astype(np.float32))[:, None]

        def fill(rows: list[int], wanted: Condition, **given: Any) -> Tensor:
            return family.fill(pixels(rows), covered[rows].to(self.device), wanted, **given)

        return self._painted("fill", fill, condition, chosen, options, on_step)

    def vary(
        self,
        images: Images,
        *,
        strength: float = STRENGTH,
        label: Label = None,
        prompt: Prompt = None,
        negative_prompt: Prompt = None,
        attributes: Attributes = None,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        on_step: OnPainting | None = None,
        **options: Any,
    ) -> Images:
        """Images like those given: one for each of them.

        strength: from 0, where they come back as the model encodes them, to 1, where nothing of them is left.
        label, prompt, attributes: what each image shows; without a prompt or an attribute, whatever suits it.
        Others as of `sample`.
        Raises ConfigError where the family cannot, or as `sample`.
        """
        family, pixels, count = self.family, self._pixels(images), len(images)
        if not isinstance(family, Varies):
            raise ConfigError(f"A {family.config.family} cannot vary an image: use a vae or a transformer.")
        rules.check(strength=strength)
        chosen = _one_seed_each(count, seed, seeds)
        condition = known(family.config, count, label, prompt, negative_prompt, attributes)

        def vary(rows: list[int], wanted: Condition, **given: Any) -> Tensor:
            return family.vary(pixels(rows), wanted, strength=strength, **given)

        return self._painted("vary", vary, condition, chosen, options, on_step)

    def drawn_labels(self, seeds: Sequence[int]) -> NDArray[np.int64]:
        """The label that each seed draws where none is asked for, `[n]`: -1 where the model knows none."""
        labels = asked(self.family.config, seeds).label
        return np.full(len(seeds), -1, np.int64) if labels is None else labels.numpy()

    def drawn_prompts(self, seeds: Sequence[int]) -> tuple[str, ...] | None:
        """The prompt that each seed draws where none is given; None where the model reads no text."""
        return asked(self.family.config, seeds).text

    def check_prompt(self, text: str, name: str = "prompt") -> None:
        """Raise ConfigError for a prompt whose end the model would not read; name: of the option."""
        conditions.check_length(self.family.config, text, name)

    def encode(self, images: Images, label: Label = None) -> Tensor:
        """Images to their most likely latents `[n, ...]`, float32 on the CPU.

        Raises ConfigError where the family has no encoder, or the images are not of the model's size.
        """
        encoder, pixels = self._encoder(), self._pixels(images)
        condition = known(self.family.config, len(images), label)
        return self._in_chunks(
            lambda rows: encoder.encode(pixels(rows), self._rows(condition, rows)), len(images)
        )

    def decode(self, latents: Tensor, label: Label = None) -> Images:
        """Latents `[n, ...]` to images; raises ConfigError where the family has no decoder."""
        encoder, condition = self._encoder(), known(self.family.config, len(latents), label)

        def decode(rows: list[int]) -> Tensor:
            return to_uint8(encoder.decode(latents[rows].to(self.device), self._rows(condition, rows)))

        return Images(self._in_chunks(decode, len(latents)))

    def reconstruct(self, images: Images, label: Label = None) -> Images:
        """Images through the latent space and back."""
        return self.decode(self.encode(images, label), label)

    def interpolate(self, start: Images, end: Images, steps: int = 8, label: Label = None) -> Images:
        """`steps` images from each of `start` to its partner in `end`, both ends included, one way after
        another.

        Raises ConfigError as `encode` does, and where there are not as many ends as starts.
        """
        if steps < 2:
            raise ConfigError(f"An interpolation takes at least 2 steps, not {steps}.")
        if len(start) != len(end):
            raise ConfigError(f"Give an end for each start: there are {len(end)} for {len(start)}.")
        family, first, last = self.family, self._pixels(start), self._pixels(end)
        if not isinstance(family, Interpolates):
            raise ConfigError(f"A {family.config.family} knows no way from one image to another: use a vae.")
        condition = known(self.family.config, len(start), label)

        def interpolate(rows: list[int]) -> Tensor:
            wanted = self._rows(condition, rows)
            return _frames_to_uint8(family.interpolate(first(rows), last(rows), wanted, steps=steps))

        return Images(self._in_chunks(interpolate, len(start)).flatten(0, 1))

    def traverse(
        self, images: Images, latent: int, values: Sequence[float] = (-2, -1, 0, 1, 2), label: Label = None
    ) -> Images:
        """Each image with one of its latents set to each of `values` (standard deviations), one after
        another.
        """
        family, pixels = self.family, self._pixels(images)
        if not isinstance(family, Traverses):
            raise ConfigError(f"A {family.config.family} has no latents to move one by one: use a vae.")
        condition = known(self.family.config, len(images), label)

        def traverse(rows: list[int]) -> Tensor:
            wanted = self._rows(condition, rows)
            return _frames_to_uint8(family.traverse(pixels(rows), wanted, latent=latent, values=values))

        return Images(self._in_chunks(traverse, len(images)).flatten(0, 1))

    def bits_per_dim(
        self,
        images: Images,
        label: Label = None,
        *,
        prompt: Prompt = None,
        samples: int = 1,
        seed: int = 0,
    ) -> Tensor:
        """How many bits per dimension each image costs, `[n]` float32: an upper bound, tighter with more
        `samples`. prompt: what a model that reads text is told of them; None tells it nothing.

        Raises ConfigError where the family has no likelihood, or as `encode` does.
        """
        family, pixels = self.family, self._pixels(images)
        if not isinstance(family, HasLikelihood):
            raise ConfigError(f"A {family.config.family} cannot say how likely an image is: use a vae.")
        condition = known(self.family.config, len(images), label, prompt)

        def bits(rows: list[int]) -> Tensor:
            rng = generator(seed, "bits per dim", rows[0], device=self.device)
            batch = Batch(pixels(rows), self._rows(condition, rows))
            return family.bits_per_dim(batch, rng, samples=samples)

        return self._in_chunks(bits, len(images))

    def token_nll(self, images: Images, label: Label = None, *, prompt: Prompt = None) -> Tensor:
        """-log p of each image's codes in nats, `[n]` float32; prompt: as of `bits_per_dim`.

        Raises ConfigError where the family cannot tell, or as `encode` does.
        """
        family, pixels = self.family, self._pixels(images)
        if not isinstance(family, HasTokenLikelihood):
            kind = family.config.family
            raise ConfigError(f"This {kind} cannot say how likely codes are: use a raster transformer.")
        condition = known(self.family.config, len(images), label, prompt)

        def nll(rows: list[int]) -> Tensor:
            return family.token_nll(Batch(pixels(rows), self._rows(condition, rows)))

        return self._in_chunks(nll, len(images))

    def info(self) -> dict[str, Any]:
        """What `danqing show` prints: the family, its image shape, what it reads, parameters and training."""
        return {
            **describe(self.family, self.facts),
            "sample_options": self.sample_options,
            "other_sizes": self.facts.get("other_sizes") != "refused",
        }

    def save(self, folder: str | Path, samples: Images | None = None) -> Path:
        """Write the model folder: weights, configuration, model card, scores and a grid of samples."""
        grid = samples if samples is not None else self.sample(64)
        return model_folder.write(
            Path(folder), self.family, self.facts, self.info(), grid, origin=self.origin
        )

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Upload the model folder to a hub repository, made if need be; returns its address.

        Whoever may read it sees the captions that the folder shows as examples (`text.examples` of its
        configuration), those that all images of a class share (`label_captions`), and the attributes of some
        training images (`attribute_examples`). Raises ModelError.
        """
        return model_folder.push(self.save, repo_id, private=private, token=token)

    def _painted(
        self,
        verb: Verb,
        paint: Callable[..., Tensor],
        condition: Condition,
        seeds: Sequence[int],
        options: Mapping[str, Any],
        on_step: OnPainting | None,
    ) -> Images:
        """An image for each row of a condition and its seed; paint: given some rows, their condition, their
        seeds, the options, and that to be told of steps where the family has it.
        """
        self.check_options(options, verb)
        n, painted = len(seeds), list[Tensor]()
        chunks = -(-n // self.family.chunk)
        steps = isinstance(self.family, PaintsInSteps)

        def tell(done: int, total: int, preview: Callable[[], Tensor]) -> None:
            assert on_step is not None
            finished = painted.copy()
            shown = functools.partial(_preview, finished, preview, n)
            on_step(len(finished) * total + done, chunks * total, shown)

        def compute(rows: list[int]) -> Tensor:
            told = {"on_step": tell} if steps and on_step is not None else {}
            chosen = [seeds[row] for row in rows]
            images = paint(rows, self._rows(condition, rows), seeds=chosen, **options, **told)
            if on_step is not None and not steps:
                tell(1, 1, lambda: images)
            painted.append(to_uint8(images).cpu())
            return painted[-1]

        return Images(self._in_chunks(compute, n))

    def _in_chunks(self, compute: Callable[[list[int]], Tensor], n: int) -> Tensor:
        """`compute` on every row, always on a chunk of rows at once; the first rows fill up the last."""
        if n == 0:
            raise ConfigError("Give at least one image.")
        chunk, results = self.family.chunk, []
        with torch.inference_mode():
            for start in range(0, n, chunk):
                rows = [row % n for row in range(start, start + chunk)]
                results.append(compute(rows)[: n - start].cpu())
        return torch.cat(results)

    def _pixels(self, images: Images) -> Callable[[list[int]], Tensor]:
        """What gives some of the images as float, on the model's device; raises ConfigError for another
        size.
        """
        config = self.family.config
        pixels = torch.from_numpy(np.ascontiguousarray(images.array))  # images[::-1] is a view
        if tuple(pixels.shape[1:]) != (config.height, config.width, config.channels):
            raise ConfigError(
                f"This model takes images of {config.width}x{config.height} with {config.channels} channels, "
                f"and these {pixels.shape[2]}x{pixels.shape[1]} with {pixels.shape[3]}: resize them first."
            )
        return lambda rows: to_float(pixels[rows]).to(self.device)

    def check_options(self, options: Mapping[str, Any], verb: Verb = "sample") -> None:
        """Raise ConfigError for an option that the verb does not have, or whose value cannot be."""
        defaults = self.options_of(verb)
        for name, value in options.items():
            if name not in defaults:
                known = ", ".join(defaults) or "none"
                raise ConfigError(f"This model does not know the option {name!r}; it has: {known}.", name)
            default = defaults[name]
            kinds = (int, float) if isinstance(default, float) else (type(default),)
            wrong = not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool)
            if default is not None and wrong:
                raise ConfigError(
                    f"The option {name} cannot be {value!r}: give a value such as {default!r}.", name
                )
        rules.check(**options)

    def _rows(self, condition: Condition, rows: list[int]) -> Condition:
        return condition[rows].to(self.device)

    def _encoder(self) -> Encodes:
        if not isinstance(self.family, Encodes):
            raise ConfigError(
                f"A {self.family.config.family} has no latent space to encode images into: use a vae."
            )
        return self.family


def describe(learner: Learner, trained: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a learner as plain values: its image shape, what it reads, parameters and training.

    trained: what is known of its training.
    """
    config = learner.config
    return {
        "family": config.family,
        "width": config.width,
        "height": config.height,
        "channels": config.channels,
        "labels": list(config.labels),
        "text": conditions.reading(config),
        "attributes": [one.model_dump(mode="json", exclude_defaults=True) for one in config.attributes],
        "parameters": sum(parameter.numel() for parameter in learner.parameters()),
        "trained": dict(trained),
    }


def _written(method: Callable[..., Any]) -> dict[str, Any]:
    """The options in a method's signature, with their defaults."""
    parameters = inspect.signature(method).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty and p.name != "on_step"}


def _one_seed_each(count: int, seed: int, seeds: Sequence[int] | None) -> list[int]:
    """The seeds of so many images: those given, or those that follow from one; raises ConfigError."""
    for given in (seed, *(seeds or ())):
        if given < 0:
            raise ConfigError(f"A seed is a whole number from 0 on, not {given}.")
    chosen = (
        [derived_seed(seed, "image", number) for number in range(count)] if seeds is None else list(seeds)
    )
    if len(chosen) != count:
        raise ConfigError(f"Give one seed per image: there are {len(chosen)} seeds for {count} images.")
    return chosen


def _preview(finished: Sequence[Tensor], preview: Callable[[], Tensor], n: int) -> Images:
    """The images that are finished, and the next ones as they are by now."""
    return Images(torch.cat([*finished, to_uint8(preview()).cpu()])[:n])


def _frames_to_uint8(frames: Tensor) -> Tensor:
    """Float `[n, steps, c, h, w]` to uint8 `[n, steps, h, w, c]`."""
    n, steps, channels, height, width = frames.shape
    return to_uint8(frames.flatten(0, 1)).reshape(n, steps, height, width, channels)
