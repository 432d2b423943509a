"""What is asked of a model becomes a row per image; what it does not read is refused in a sentence."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from danqing import families, requested
from danqing.errors import ConfigError
from danqing.families.base import Condition, Family, FamilyConfig, ReadsText
from danqing.images import Images
from danqing.model.conditions import describe_text, drawn_condition, given_condition
from danqing.model.model import Model
from danqing.names import match_index
from danqing.requested import count_images
from danqing.text.contract import TextConfig, TextFacts

CHUNK = Family.chunk
CAPTIONS = ("a red heart\n红心", "a blue star", "two circles")


class StubConfig(FamilyConfig):
    family: str = "stub"
    text: TextConfig = TextConfig(length=5)
    text_facts: TextFacts | None = None

    @property
    def reads_text(self) -> bool:
        return True


TEXT = StubConfig(width=4, height=4, channels=1, captions=CAPTIONS)
LABELS = FamilyConfig(family="gan", labels=("cat", "dog"), label_frequencies=(0.25, 0.75))
NEITHER = FamilyConfig(family="gan")


class Painter(Family):
    """Paints the length of a text in the first pixel and the low byte of the seed in the second, in four
    steps.
    """

    def __init__(self, config: FamilyConfig, steps: int = 4) -> None:
        super().__init__()
        self.config, self.steps = config, steps
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def painting_steps(self, **options: Any) -> int:
        return self.steps

    def sample(
        self,
        condition: Condition,
        *,
        seeds: Any,
        guidance_scale: float = 1.0,
        on_step: Any = None,
        **options: Any,
    ) -> Tensor:
        images = torch.full((len(seeds), 1, 4, 4), -1.0)
        for step in range(self.steps):
            images[:, :, step] = 1.0
            if on_step is not None:
                on_step(step + 1, self.steps, images.clone)
        assert condition.text is not None
        images[:, 0, 0, 0] = torch.tensor([len(text) for text in condition.text]) / 127.5 - 1
        images[:, 0, 0, 1] = torch.tensor([seed % 256 for seed in seeds]) / 127.5 - 1
        return images


def lengths(images: Images) -> list[int]:
    return images.array[:, 0, 0, 0].tolist()


def test_prompts_reach_their_images() -> None:
    model = Model(Painter(TEXT))
    assert lengths(model.sample(3, prompt="abc")) == [3, 3, 3]
    assert lengths(model.sample(prompt=["", "a", "abcd"])) == [0, 1, 4]
    assert len(model.sample(prompt="abc")) == len(model.sample()) == 1
    many = [("x" * (n % 7)) for n in range(CHUNK * 2 + 3)]
    assert lengths(model.sample(prompt=many)) == [n % 7 for n in range(CHUNK * 2 + 3)]


def test_without_a_prompt_each_seed_draws_a_caption_of_its_own() -> None:
    model = Model(Painter(TEXT))
    images = model.sample(20, seed=5)
    alone = model.sample(seeds=[7, 8])
    assert lengths(model.sample(seeds=[8])) == lengths(alone)[1:]
    drawn = model.drawn_prompts(range(3000))
    assert drawn is not None
    counts = Counter(drawn)
    assert set(counts) == {"a red heart", "红心", "a blue star", "two circles"}
    assert np.isclose(counts["a blue star"], 1000, atol=110)
    assert np.isclose(counts["红心"], 500, atol=90)
    assert set(lengths(images)) <= {len(text) for text in counts}
    assert drawn_condition(TEXT.model_copy(update={"captions": ()}), [1, 2]).text == ("", "")
    assert Model(Painter(TEXT)).drawn_labels([1]).tolist() == [-1]


@pytest.mark.parametrize(
    ("config", "wish", "sentence"),
    [
        (
            LABELS,
            {"prompt": "a cat"},
            r"This gan reads labels and not text: choose a label \(cat, dog\)",
        ),
        (NEITHER, {"prompt": "a cat"}, "reads neither text nor labels: leave the prompt out"),
        (NEITHER, {"prompt": ""}, "reads neither text nor labels"),
        (TEXT, {"label": "cat"}, "trained without labels: describe the image by a prompt"),
        (NEITHER, {"label": "cat"}, "trained without labels: leave the label out"),
        (TEXT, {"prompt": ["a", "b", "c"]}, "Give one prompt, or one per image: there are 3 for 2 images"),
        (TEXT, {"prompt": ["a", 7]}, "A prompt is a text, not 7"),
        (LABELS, {"negative_prompt": "a cow"}, "This gan does not read text: leave the negative prompt out"),
        (TEXT, {"negative_prompt": ["a"]}, "Give one prompt, or one per image: there are 1 for 2 images"),
        (LABELS, {"label": "cow"}, "does not know the label 'cow': choose one of cat, dog"),
    ],
)
def test_what_a_model_does_not_read_is_refused(
    config: FamilyConfig, wish: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        drawn_condition(config, [1, 2], **wish)


def test_how_text_is_read_is_told_of_configurations_that_read_text() -> None:
    told = describe_text(TEXT)
    assert told is not None
    assert (told["encoder"], told["length"], told["vocabulary"]) == ("bpe", 5, 0)
    assert told["captions"] == ["a red heart", "红心", "a blue star", "two circles"]
    assert isinstance(TEXT, ReadsText)
    assert not isinstance(LABELS, ReadsText)
    assert describe_text(LABELS) is None
    writes = families.parse_config({"family": "transformer", "width": 8, "height": 8, "condition": "label"})
    assert isinstance(writes, ReadsText)
    assert describe_text(writes) is None


def test_of_images_that_are_there_nothing_is_drawn() -> None:
    assert given_condition(TEXT, 2).text == ("", "")
    assert given_condition(TEXT, 2, prompt=["a", "b"]).text == ("a", "b")
    assert given_condition(NEITHER, 2) == Condition()
    with pytest.raises(ConfigError, match="give the label of each image"):
        given_condition(LABELS, 2)
    label = given_condition(LABELS, 2, label=["dog", 0]).label
    assert label is not None
    assert label.tolist() == [1, 0]


def test_rows_are_taken_in_any_order_with_all_that_is_given() -> None:
    image, mask = torch.rand(3, 1, 2, 2), torch.ones(3, 1, 2, 2)
    condition = Condition(
        label=torch.tensor([3, 4, 5]),
        text=("c", "d", "e"),
        negative_text=("f", "", "h"),
        image=image,
        mask=mask,
    )
    taken = condition[[2, 0, 2]]
    assert taken.image is not None
    assert taken.mask is not None
    assert torch.equal(taken.image, image[[2, 0, 2]])
    assert taken.mask.shape == mask.shape
    assert condition[1:].text == ("d", "e")
    assert taken.label is not None
    assert (taken.label.tolist(), taken.text) == ([5, 3, 5], ("e", "c", "e"))
    assert taken.negative_text == ("h", "f", "h")


def test_how_many_images_follow_from_what_is_in_lists() -> None:
    assert (
        count_images(None, None, None)
        == count_images("cat", "a cat", None)
        == count_images(3, None, None)
        == 1
    )
    assert count_images(None, ["a", "b"], None) == count_images(["cat", "dog"], None, None) == 2
    assert count_images(None, "a", [1, 2, 3]) == 3


@pytest.mark.parametrize("n", [1, CHUNK, CHUNK + 3])
def test_painting_is_told_step_by_step_with_previews(n: int) -> None:
    told: list[tuple[int, int]] = []
    shown: list[Images] = []

    def on_step(done: int, total: int, preview: Any) -> None:
        told.append((done, total))
        shown.append(preview())

    model = Model(Painter(TEXT))
    images = model.sample(n, prompt="abc", on_step=on_step)
    chunks = -(-n // CHUNK)
    assert told == [(step + 1, 4 * chunks) for step in range(4 * chunks)]
    assert [len(preview) for preview in shown] == [
        min(n, CHUNK * (chunk + 1)) for chunk in range(chunks) for _ in range(4)
    ]
    assert shown[1].array[-1, :, 3, 0].tolist() == [255, 255, 0, 0]
    assert (shown[-1].array[: CHUNK * (chunks - 1)] == images.array[: CHUNK * (chunks - 1)]).all()
    assert (images.array == model.sample(n, prompt="abc").array).all()
    assert list(model.sample_options) == ["guidance_scale"]


def test_a_painting_may_be_stopped_by_whoever_watches() -> None:
    def stop(done: int, total: int, preview: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Model(Painter(TEXT)).sample(2, prompt="a", on_step=stop)


def test_a_family_without_steps_is_told_of_by_the_chunk() -> None:
    from danqing.families.vae import VAEConfig

    config = VAEConfig(width=8, height=8, channels=1, net="mlp", features=4, latents=4)
    told: list[tuple[int, int, int]] = []
    model = Model(families.build(config))
    model.sample(CHUNK + 1, on_step=lambda done, total, preview: told.append((done, total, len(preview()))))
    assert told == [(1, 2, CHUNK), (2, 2, CHUNK + 1)]


def test_options_that_are_not_there_are_refused() -> None:
    model = Model(Painter(TEXT))
    model.check_options({"guidance_scale": 3})
    with pytest.raises(ConfigError, match="does not know the option 'guidance'; it has: guidance_scale"):
        model.sample(prompt="a", guidance=3)


def test_who_cannot_vary_says_so_and_a_strength_is_a_share() -> None:
    images = Images(np.zeros((2, 4, 4, 1), np.uint8))
    with pytest.raises(ConfigError, match=r"^A stub cannot vary an image: use a GAN, a VAE.* or a"):
        Model(Painter(TEXT)).vary(images)
    small = {"width": 4, "height": 4, "channels": 1, "features": 4, "latents": 2, "prior": "normal"}
    model = Model(families.build(families.parse_config({"family": "vae", "net": "mlp", **small})))
    for wish, sentence in (
        ({"strength": 1.5}, "strength must be from 0 to 1"),
        ({"strength": float("nan")}, "strength must be from 0 to 1"),
        ({"temperature": 0.5}, "'temperature'; it has: strength"),
        ({"seeds": [1]}, "one seed per image"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            model.vary(images, **wish)
    varied = model.vary(images, seed=3).array
    assert np.array_equal(model.vary(images[:1], seed=3).array, varied[:1])


@pytest.mark.parametrize(
    ("names", "wanted", "found"),
    [
        (("cat", "dog"), 1, 1),
        (("cat", "dog"), "1", 1),
        (("cat", "dog"), "DOG", 1),
        (("cat", "dog"), "a dog", 1),
        (("cat", "dog"), 2, None),
        (("0", "90", "180"), 90, 1),
        (("0", "90", "180"), "180", 2),
        (("0", "90", "180"), 1, None),
        (("0", "90", "180"), "2", None),
        (("1", "2", "3"), 1, 0),
        (("café", "thé"), "cafe\u0301", 0),
        (("black_cat", "black dog"), "Black-Cat", 0),
        (("Cat", "cat"), "cat", 1),
    ],
)
def test_a_label_means_one_thing_however_it_is_written(
    names: tuple[str, ...], wanted: str | int, found: int | None
) -> None:
    assert match_index(wanted, names) == found


def test_numbers_of_numpy_are_numbers_and_others_are_named() -> None:
    config = families.parse_config({"family": "gan", "width": 8, "height": 8, "labels": ["a", "b"]})

    def draw(weights: Any, seed: int) -> int:
        raise AssertionError

    for label in (1, np.int64(1), np.array([1, 1]), ["b", np.uint8(1)], "b"):
        assert requested.labels(config, label, [0, 1], draw) == [1, 1]
        assert count_images(label, None, None) == (1 if isinstance(label, int | str | np.int64) else 2)
    assert requested.image_seeds(2, 0, np.arange(2)) == [0, 1]
    assert requested.image_seeds(np.int64(2), np.int64(3), None) == requested.image_seeds(2, 3, None)
    for given, sentence in (
        (lambda: requested.labels(config, 1.0, [0], draw), "A label is a name or a whole number, not 1.0"),
        (lambda: requested.image_seeds(1, None, None), "A seed is a whole number from 0 on, not None"),
        (lambda: requested.image_seeds(1, 0.5, None), "not 0.5"),
        (lambda: requested.image_seeds(1.5, 0, None), "The number of images is a whole number, not 1.5"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            given()
