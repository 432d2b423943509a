"""A trained model: sample from it, change images with it, save it, share it."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing import options as rules
from danqing.errors import ConfigError
from danqing.families.abilities import (
    Fills,
    MeasuresText,
    Relabels,
    SamplesSeamless,
    SamplesSizes,
    Translates,
    Varies,
)
from danqing.families.base import Condition, Family, FamilyConfig
from danqing.families.pipeline import Pipeline
from danqing.images import Images
from danqing.model import adapted, conditions, pipelines, verb_options
from danqing.model import folder as model_folder
from danqing.model.analysis import Analysis
from danqing.model.card import describe
from danqing.model.chunks import OnPainting, pixels_of, sample_in_chunks
from danqing.model.conditions import drawn_condition, given_condition
from danqing.model.domain import Domain, warn_outside
from danqing.model.files import Access
from danqing.model.verb_options import STRENGTH
from danqing.nets import adapters
from danqing.nets.layers import crop
from danqing.options import Verb
from danqing.precision import Precision, autocast, candidates
from danqing.requested import Label, Prompt, count_images, image_seeds
from danqing.requested_attributes import Attributes
from danqing.sizes import SizeRange, as_size

AdapterSource = str | Path | tuple[str | Path, float]
"""Where an adapter is, and its weight: "runs/cats:0.8", ("runs/cats", 0.8), or "runs/cats" for 1."""


class Model(Analysis):
    """A family with trained weights, ready to sample.

    facts: what is known of its training (images seen, data, licence), as in `config.json`. Where
    `other_sizes` is "refused", a service returns its images in their own size only.
    name: as its images declare it; "" means the name of its folder or family.
    """

    def __init__(self, family: Family, facts: Mapping[str, Any] | None = None, *, name: str = "") -> None:
        self.family = family.eval().requires_grad_(False)
        self.facts, self.name = dict(facts or {}), name
        self.origin: Path | None = None
        """The folder that it was read from, whose scores are valid while the weights are the same."""
        self.domain = Domain.read(self.facts)
        """What its training images are like, or the source images that it reads; None if it does not know."""

    def __repr__(self) -> str:
        c = self.family.config
        return f"Model({c.family}, {c.width}x{c.height}x{c.channels}, {len(self.labels)} labels)"

    @property
    def config(self) -> FamilyConfig:
        """Return the settings of its family."""
        return self.family.config

    @property
    def chunk(self) -> int:
        """Return how many images are computed at once."""
        return self.family.chunk

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the names that `sample(label=...)` takes, if any."""
        return self.family.config.labels

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Return the (low, high) that are black and white.

        None where the training images had no more than 8 bits.
        """
        bounds = self.facts.get("data", {}).get("prepared", {}).get("range")
        return None if bounds is None else (float(bounds[0]), float(bounds[1]))

    @property
    def sample_options(self) -> dict[str, Any]:
        """Return the family's own options of `sample` with their defaults."""
        return self.options_of("sample")

    @property
    def precision(self) -> Precision:
        """Return the number format of matrix products in sampling.

        A family's own option takes precedence.

        It is float32, unless the fact `sampling_precision` is "auto": what the machine is fast at.
        """
        is_auto = self.facts.get("sampling_precision") == "auto" and "precision" not in self.sample_options
        return candidates(self.device)[0] if is_auto else "float32"

    def options_of(self, verb: Verb) -> dict[str, Any]:
        """Return the family's own options of a verb with their defaults.

        verb: one that the family has.
        """
        return verb_options.options_of(self.family, verb)

    def check_options(self, options: Mapping[str, Any], verb: Verb = "sample") -> None:
        """Raise ConfigError for an unknown option or an invalid value.

        options: of the family; the `size` of samples may be among them.
        """
        options = dict(options)
        size = options.pop("size", None) if verb == "sample" else None
        if size is not None:
            self.check_size(size)
        if (seamless := options.get("seamless", "none")) != "none":
            rules.check(seamless=seamless)
            self._check_seamless(size)
        rules.check_given(options, self.options_of(verb))

    @property
    def sizes(self) -> SizeRange:
        """Return the sizes that it samples."""
        if isinstance(self.family, SamplesSizes):
            return self.family.sizes
        return SizeRange(((self.family.config.width, self.family.config.height),))

    def check_size(self, size: Sequence[int]) -> None:
        """Raise ConfigError for a (width, height) that the model does not sample."""
        sizes = self.sizes
        if not sizes.multiple and not sizes.fits(as_size(size)):
            raise self._cannot(f"sample another size than its own, {sizes.in_words()}", SamplesSizes)
        sizes.check(size)

    def _check_seamless(self, size: Sequence[int] | None) -> None:
        """Raise ConfigError if images of a (width, height) cannot be seamless; None is the model's own."""
        family = self.family
        if not isinstance(family, SamplesSeamless):
            raise self._cannot("sample seamless images", SamplesSeamless)
        width, height = (family.config.width, family.config.height) if size is None else size
        family.check_seamless((width, height))

    def to(self, device: torch.device | str) -> Self:
        """Move the weights to a device; returns self."""
        self.family.to(device)
        return self

    def with_adapters(
        self, sources: Sequence[AdapterSource], *, require: str | Path | Sequence[str | Path] = ()
    ) -> Self:
        """Return the same model with adapters added to its weights.

        sources: run folders, folders or hub ids of adapters, each with its weight. What is not requested of
            an image is then drawn as in the data of the first of them.
        require: public keys, one of which must have signed each adapter.
        Raises ModelError where one was trained on another model, and ConfigError for a weight that is not
        allowed.
        """
        if not sources:
            return self
        signers = (require,) if isinstance(require, str | Path) else require
        access = Access(tuple(map(Path, signers)))
        parsed = [adapted.parse(source) for source in sources]
        return self.with_read_adapters(
            [adapted.Weighted(adapted.open_adapter(place, access), weight) for place, weight in parsed]
        )

    def with_read_adapters(self, wanted: Sequence[adapted.Weighted]) -> Self:
        """Return the same model with adapters that have been read.

        wanted: with their weights. Errors are those of `with_adapters`.
        """
        model = copy.copy(self)
        family = adapted.with_adapters(self.family, wanted, self.name or str(self.origin or ""))
        assert isinstance(family, Family)
        model.family = family.eval().requires_grad_(False)
        used = ", ".join(f"{each.in_words()} ({each.adapter.digest[:12]})" for each in wanted)
        model.facts = {**self.facts, **adapted.facts_of(wanted), "adapters": used}
        model.domain = Domain.read(model.facts)
        model.origin, model.name = None, self.name or self.declaration("sample").model
        return model

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
        size: Sequence[int] | None = None,
        on_step: OnPainting | None = None,
        **options: Any,
    ) -> Images:
        """Sample `n` images.

        Image i depends on (seed, i), on what is requested of it, the size and the options alone.

        n: by default the number of prompts, labels, attributes or seeds, or one.
        label: a class name or index for all images, or one for each; None draws them as the data had them.
        prompt: a text for all images, or one for each; None draws captions of the data, "" requests nothing
            in particular.
        negative_prompt: a text that guidance leads away from, or one for each image.
        attributes: `{"age": 30, "kind": "hat"}` for all images, or one such table for each; None is an
            unknown value, and what is left out is drawn from the training images that are most like the rest.
        seeds: one for each image, instead of `seed`.
        size: (width, height) in pixels, one of `sizes`; None is the model's own.
        on_step: called after each step of sampling.
        options: of the family, as in `sample_options`.
        Raises ConfigError for an unknown label, attribute or option, and for a condition that the model does
        not read. Warns of numbers that no training image has.
        """
        n = count_images(label, prompt, seeds, attributes) if n is None else n
        if n < 1:
            raise ConfigError("Request at least one image.")
        chosen = image_seeds(n, seed, seeds)
        condition = drawn_condition(self.family.config, chosen, label, prompt, negative_prompt, attributes)

        own: dict[str, Any] = {}
        if size is not None:
            self.check_size(size)
            own = {"size": tuple(size)} if isinstance(self.family, SamplesSizes) else {}

        def draw(rows: list[int], wanted: Condition, **given: Any) -> Tensor:
            return self.family.sample(wanted, **own, **given)

        return self._sample("sample", draw, condition, chosen, options, on_step)

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
        """Sample the part of each image that a mask covers.

        It suits the rest, whose pixels stay exactly as they are.

        mask: bool `[h, w]` for all images, or `[n, h, w]`; true where to sample.
        label, prompt, attributes: what each image shows; without a prompt or an attribute, whatever suits it.
        Other arguments are those of `sample`. Raises ConfigError where the family cannot, or as `sample`.
        Warns of images that are unlike the training images, as `vary` and `translate` do.
        """
        family, pixels, count = self.family, self._pixels(images), len(images)
        if not isinstance(family, Fills):
            raise self._cannot("fill a part of an image", Fills)
        chosen = image_seeds(count, seed, seeds)
        shape = images.array.shape[:3]
        if mask.dtype != np.bool_ or mask.shape not in (shape, shape[1:]):
            raise ConfigError(
                f"The mask must be true or false for each of {shape[2]}x{shape[1]} pixels, and is "
                f"{mask.dtype} of shape {list(mask.shape)}."
            )
        condition = given_condition(family.config, count, label, prompt, negative_prompt, attributes)
        covered = torch.from_numpy(np.broadcast_to(mask, shape).astype(np.float32))[:, None]
        warn_outside(self.domain, pixels(list(range(count))), covered)

        def fill(rows: list[int], wanted: Condition, **given: Any) -> Tensor:
            return family.fill(pixels(rows), covered[rows].to(self.device), wanted, **given)

        filled = self._sample("fill", fill, condition, chosen, options, on_step)
        where = np.broadcast_to(mask, shape)
        return Images(np.where(where[..., None], filled.array, images.array), filled.marks, where)

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
        """Sample a variation of each image.

        strength: from 0, which returns each as the model encodes it, to 1, which keeps nothing of it.
        label, prompt, attributes: what each image shows; without a prompt or an attribute, whatever suits it.
        Other arguments are those of `sample`. Raises ConfigError where the family cannot, or as `sample`.
        """
        family, pixels, count = self.family, self._pixels(images), len(images)
        if not isinstance(family, Varies):
            raise self._cannot("vary an image", Varies)
        rules.check(strength=strength)
        chosen = image_seeds(count, seed, seeds)
        condition = given_condition(family.config, count, label, prompt, negative_prompt, attributes)

        warn_outside(self.domain, pixels(list(range(count))))

        def vary(rows: list[int], wanted: Condition, **given: Any) -> Tensor:
            return family.vary(pixels(rows), wanted, strength=strength, **given)

        return self._sample("vary", vary, condition, chosen, options, on_step)

    def translate(
        self,
        images: Images,
        *,
        label: Label = None,
        source_label: Label = None,
        prompt: Prompt = None,
        negative_prompt: Prompt = None,
        attributes: Attributes = None,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        on_step: OnPainting | None = None,
        **options: Any,
    ) -> Images:
        """Turn each source image into the image that belongs to it.

        images: of the size of the model's source images, `family.config.source_size`.
        source_label: what the images show, for a model that learned images with labels and not from source
            images; `label` is what they will show, and `strength` (1 by default) how much may change.
        Other arguments are those of `vary`. Raises ConfigError where the model cannot.
        """
        family, count = self.family, len(images)
        self.check_translates(source_label)
        chosen = image_seeds(count, seed, seeds)
        condition = given_condition(family.config, count, label, prompt, negative_prompt, attributes)
        if source_label is not None:
            source = given_condition(family.config, count, source_label, prompt, attributes=attributes)
            return self._relabel(images, source, condition, chosen, on_step, options)
        assert isinstance(family, Translates)
        pixels = pixels_of(images, family.config, self.device, of_source=True)
        own = family.config.height, family.config.width
        warn_outside(self.domain, pixels(list(range(count))))

        def translate(rows: list[int], wanted: Condition, **given: Any) -> Tensor:
            return crop(family.translate(pixels(rows), wanted, **given), own)

        return self._sample("translate", translate, condition, chosen, options, on_step)

    def _relabel(
        self,
        images: Images,
        source: Condition,
        target: Condition,
        seeds: Sequence[int],
        on_step: OnPainting | None,
        options: Mapping[str, Any],
    ) -> Images:
        """Turn images that show one thing into images that show another."""
        family, pixels = self.family, self._pixels(images)
        assert isinstance(family, Relabels)
        warn_outside(self.domain, pixels(list(range(len(images)))))

        def relabel(rows: list[int], wanted: Condition, **given: Any) -> Tensor:
            return family.relabel(pixels(rows), source[rows].to(self.device), wanted, **given)

        return self._sample("relabel", relabel, target, seeds, options, on_step)

    def check_translates(self, source_label: Label = None) -> None:
        """Raise ConfigError if the model cannot turn one image into another.

        source_label: as of `translate`.
        """
        family = self.family
        if source_label is not None and not isinstance(family, Relabels):
            raise self._cannot("turn images of one label into images of another", Relabels)
        if source_label is not None or isinstance(family, Translates):
            return
        if isinstance(family, Relabels) and self.labels:
            raise ConfigError(
                "This model learned images with labels: say which label the images have "
                "(source_label, --from) and which one they will have (label, --to)."
            )
        raise self._cannot("turn one image into another", Translates)

    def drawn_labels(self, seeds: Sequence[int]) -> NDArray[np.int64]:
        """Return the labels that seeds draw where none are requested, `[n]`.

        They are -1 where the model has no labels.
        """
        labels = drawn_condition(self.family.config, seeds).label
        return np.full(len(seeds), -1, np.int64) if labels is None else labels.numpy()

    def drawn_prompts(self, seeds: Sequence[int]) -> tuple[str, ...] | None:
        """Return the prompts that seeds draw where none are requested.

        None where the model reads no text.
        """
        return drawn_condition(self.family.config, seeds).text

    def check_prompt(self, text: str, name: str = "prompt") -> None:
        """Raise ConfigError for a prompt that is too long to read.

        name: of the option that holds it.
        """
        if isinstance(self.family, MeasuresText):
            conditions.check_measured(self.family.measure(text), name)
        else:
            conditions.check_length(self.family.config, text, name)

    def info(self) -> dict[str, Any]:
        """Return what `danqing show` prints, as plain values."""
        return {
            **describe(self.family, self.facts),
            "sample_options": self.sample_options,
            "translates": isinstance(self.family, Translates),
            "unpaired": self.family.config.reads_domains,
            "other_sizes": self.facts.get("other_sizes") != "refused",
            "sampled_sizes": self.sizes.in_words(),
        }

    def save(self, folder: str | Path, samples: Images | None = None, *, half: bool = False) -> Path:
        """Write the model folder; returns its path.

        samples: shown in the model card; by default 64 new ones, or, for a model that translates, those that
            were shown before.
        half: store the weights in float16, which halves the size and changes images by little.
        A pipeline of `diffusers` is saved as it was loaded, without new samples.
        """
        if isinstance(self.family, Pipeline) and not adapters.is_adapted(self.family):
            return pipelines.save(Path(folder), self.family)
        grid = samples
        if grid is None and not isinstance(self.family, Translates):
            grid = Images(self.sample(64).array, self.marking("sample", overview=True))
        return model_folder.write(
            Path(folder), self.family, self.facts, self.info(), grid, origin=self.origin, half=half
        )

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Upload the model folder to a hub repository; returns its address.

        The repository is created where it does not exist. Anyone who may read it sees the captions that the
        folder shows as examples (`text.examples` of its configuration), those that all images of a class
        share (`label_captions`), and the attributes of some training images (`attribute_examples`). Raises
        ModelError.
        """
        return model_folder.push(self.save, repo_id, private=private, token=token)

    def _sample(
        self,
        verb: Verb,
        draw: Callable[..., Tensor],
        condition: Condition,
        seeds: Sequence[int],
        options: Mapping[str, Any],
        on_step: OnPainting | None,
    ) -> Images:
        """Sample an image for each row of a condition and its seed, as `sample_in_chunks` says."""
        self.check_options(options, verb)
        prompts = "\n".join(dict.fromkeys(condition.text or ()))
        marks = self.marking(verb, prompts)
        given = dict(options)
        if (mark := self.codes_mark()) is not None:
            given["mark"] = mark
        with autocast(self.precision, self.device):
            return sample_in_chunks(self.family, draw, self._rows_of(condition), seeds, given, on_step, marks)
