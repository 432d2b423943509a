"""A request becomes an order: whose it is, which model, how large, what it costs."""

import asyncio
from typing import Any

import pytest

from danqing.service.access.caller import LOCAL, Caller
from danqing.service.access.held_bytes import HeldBytes
from danqing.service.engine.offers import Offer
from danqing.service.errors import ApiError
from danqing.service.pictures.encode_pool import EncodePool
from danqing.service.requests import answers
from danqing.service.requests.forms import Uploads
from danqing.service.requests.planner import Planner
from danqing.service.settings import Settings
from danqing.sizes import SizeRange

OFFERS = [
    Offer(
        "wide",
        "",
        width=48,
        height=32,
        channels=3,
        options={"sample": {"truncation": 1.0}, "fill": {"truncation": 1.0}},
    ),
    Offer(
        "steps",
        "",
        width=32,
        height=32,
        channels=4,
        reads="text",
        options={
            "sample": {
                "num_steps": 12,
                "guidance_scale": 3.0,
                "precision": "auto",
                "careful": False,
                "top_k": 0,
            }
        },
        steps=True,
        tokens=64,
    ),
    Offer(
        "flexible", "", width=48, height=32, channels=3, sizes=SizeRange(((48, 32), (31, 47)), 4, 512, 3072)
    ),
    Offer("fixed", "", width=20, height=30, channels=1, resamples=False),
]
PAINTER = Caller("key_7", "somebody", frozenset({"generate", "edit"}), models=frozenset({"steps", "fixed"}))


def plan(body: dict[str, Any], caller: Caller = LOCAL, endpoint: Any = "generations", **limits: Any) -> Any:
    settings = Settings(models={offer.name: "" for offer in OFFERS}, limits=limits)
    planner = Planner(settings, {offer.name: offer for offer in OFFERS}, EncodePool())
    return asyncio.run(planner.check_and_plan(endpoint, body, caller, HeldBytes.unlimited()))


def refused(
    body: dict[str, Any], caller: Caller = LOCAL, endpoint: Any = "generations", **limits: Any
) -> ApiError:
    with pytest.raises(ApiError) as error:
        plan(body, caller, endpoint, **limits)
    return error.value


def test_an_order_is_its_callers_and_of_a_model_that_it_may_use() -> None:
    assert plan({"prompt": ""}).order.model == "wide"
    order = plan({"prompt": "a cat", "n": 2}, PAINTER).order
    assert (order.model, order.owner, len(order.rows)) == ("steps", "key_7", 2)
    assert refused({"prompt": "", "model": "wide"}, PAINTER).status == 403
    unknown = refused({"prompt": "", "model": "wode"}, PAINTER)
    assert unknown.status == 404
    assert "wide" not in unknown.message  # what a key may not use, it need not know
    unable = refused({"prompt": "a cat"}, PAINTER, "edits")
    assert (unable.status, unable.param, unable.code) == (400, "model", "unsupported_model")
    assert "no model" in unable.message
    assert "wide" in refused({"prompt": "a cat", "model": "steps"}, LOCAL, "edits").message


def test_a_seed_is_drawn_where_none_is_given_and_decides_all() -> None:
    first, second = plan({"prompt": ""}), plan({"prompt": ""})
    assert first.seed != second.seed
    assert max(first.seed, second.seed) < 2**53
    again = plan({"prompt": "", "seed": first.seed, "n": 3})
    assert again.order.rows[0] == first.order.rows[0]
    assert len({row.seed for row in again.order.rows}) == 3


@pytest.mark.parametrize(
    ("quality", "steps"), [("low", 6), ("medium", 12), ("high", 24), ("auto", None), ("standard", None)]
)
def test_quality_is_a_number_of_steps(quality: str, steps: int | None) -> None:
    order = plan({"prompt": "", "model": "steps", "quality": quality}).order
    assert order.options.get("num_steps") == steps


def test_options_are_of_the_kind_of_their_defaults() -> None:
    good = {"guidance_scale": 2, "precision": "float32", "careful": True, "top_k": 5}
    options = plan({"prompt": "", "model": "steps", **good}).order.options
    assert options == good
    assert type(options["guidance_scale"]) is float
    for name, value in (
        ("precision", 3),
        ("precision", "x" * 513),
        ("careful", 1),
        ("top_k", 1.5),
        ("top_k", 2**63),
        ("top_k", [1]),
        ("top_k", True),
    ):
        assert refused({"prompt": "", "model": "steps", name: value}).param == name
    for value in (float("inf"), float("nan"), 1e300):
        assert refused({"prompt": "", "truncation": value}).param == "truncation"


def test_a_form_says_the_same_in_words() -> None:
    words = {"prompt": "", "n": "3", "seed": "5", "strength": "0.25", "model": "wide", "size": "96x64"}
    offers = [
        Offer("wide", "", width=48, height=32, channels=3, options={"sample": {}, "vary": {"strength": 0.5}})
    ]
    planner = Planner(Settings(models={"wide": ""}), {"wide": offers[0]}, EncodePool())
    held = HeldBytes.unlimited()
    del words["prompt"]
    with pytest.raises(ApiError) as error:  # all that is in words was read: the picture is what is missing
        asyncio.run(planner.check_and_plan("variations", words, LOCAL, held, Uploads()))
    assert error.value.param == "image"
    with pytest.raises(ApiError) as error:
        asyncio.run(planner.check("variations", words | {"strength": "much"}, LOCAL, as_text=True))
    assert error.value.param == "strength"


def test_sizes_are_those_of_the_shape_that_the_model_paints() -> None:
    for size, expected in ((None, (48, 32)), ("auto", (48, 32)), ("96x64", (96, 64)), ("47x31", (47, 31))):
        assert plan({"prompt": "", "size": size}).output.size == expected
    assert "48x32" in refused({"prompt": "", "size": "64x64"}).message
    assert plan({"prompt": "", "model": "fixed", "size": "20x30"}).output.size == (20, 30)
    assert "20x30" in refused({"prompt": "", "model": "fixed", "size": "40x60"}).message
    assert refused({"prompt": "", "size": "96x64"}, side=95).param == "size"
    assert refused({"prompt": "", "size": "96x64", "n": 2}, pixels=96 * 64).param == "size"
    assert plan({"prompt": "", "n": 2}, pixels=16).output.size == (48, 32)  # its own size is its own affair
    assert refused({"prompt": "", "n": 3}, n=2).param == "n"
    assert refused({"prompt": "words", "model": "steps"}, prompt=4).code == "string_above_max_length"


def test_a_size_that_the_model_samples_is_not_resampled() -> None:
    for size, sampled in (("64x48", (64, 48)), ("31x47", (31, 47)), ("48x32", None), ("96x64", None)):
        planned = plan({"prompt": "", "model": "flexible", "size": size})
        assert planned.order.options.get("size") == sampled
        assert planned.output.size == tuple(map(int, size.split("x")))
        assert planned.sampled_size == (sampled or (48, 32))
    tokens = answers.usage(plan({"prompt": "", "model": "flexible", "size": "64x48"}))["output_tokens"]
    assert tokens == 12  # of 16x16 pixels each
    message = refused({"prompt": "", "model": "flexible", "size": "40x10"}).message
    assert "sides in multiples of 4 with 512 to 3,072 pixels" in message
    assert "96x64" in message


def test_usage_counts_codes_or_patches_and_words() -> None:
    wide = plan({"prompt": "", "n": 2})
    assert answers.usage(wide)["output_tokens"] == 2 * 3 * 2
    steps = plan({"prompt": "画一只猫", "negative_prompt": "dog", "model": "steps", "n": 2})
    usage = answers.usage(steps)
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (4, 128, 132)
    parts = [answers.usage(steps, number)["total_tokens"] for number in range(2)]
    assert sum(parts) == 132


def test_previews_are_asked_of_those_that_have_them() -> None:
    asked = {"prompt": "", "stream": True, "partial_images": 2}
    assert plan({**asked, "model": "steps"}).order.previews == 2
    assert plan({**asked, "model": "wide"}).order.previews == 0


def test_an_answer_tells_its_background() -> None:
    for fields, background in (
        ({}, "transparent"),
        ({"background": "opaque"}, "opaque"),
        ({"output_format": "jpeg"}, "opaque"),
        ({"model": "wide"}, "opaque"),
    ):
        made = plan({"prompt": "", "model": "steps", **fields})
        assert answers.describe(made, [])["background"] == background
