"""Words and images in one space: CLIP, or two small networks that learned from the captions of the data."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing import atomic, weights
from danqing.data import open_dataset
from danqing.data.records import ImageSpec
from danqing.errors import ModelError, SearchError
from danqing.evaluation.judges import caption_matcher
from danqing.evaluation.judges.caption_matcher import CaptionMatcher, MatcherFacts
from danqing.evaluation.networks.hub import DEFAULTS
from danqing.progress import ProgressCallback
from danqing.randomness import generator
from danqing.text.pretrained import quiet

_FACTS, _WEIGHTS = "words.json", "words.safetensors"
_CLIP = "clip"


def of_encoder(encoder: str) -> "ClipTexts | None":
    """Open what reads words for an image encoder; None where nothing does.

    encoder: its name, such as `clip` or `clip:FOLDER`. Raises SearchError where CLIP is not here.
    """
    kind, _, source = encoder.partition(":")
    return ClipTexts(source or DEFAULTS["clip"]) if kind == _CLIP else None


def learn(
    data: str | Path, spec: ImageSpec, *, split: str, on_progress: ProgressCallback | None = None
) -> CaptionMatcher:
    """Learn which images and captions of the data belong together.

    It takes about a minute on a CPU. Raises SearchError where there are not two captions to tell apart.
    """
    images = open_dataset(
        data,
        size=spec.size,
        channels=spec.channels,
        alpha=spec.alpha,
        background=spec.background,
        fit=spec.fit,
        range=spec.range,
        split=split,
        on_progress=on_progress,
    )
    if (
        not images.has_texts
        or len({text for lines in caption_matcher.captions_in(images) for text in lines}) < 2
    ):
        raise SearchError(
            f"{data} has no two different captions, so no words can be learned from it: leave out text, or "
            "choose the encoder clip."
        )
    return caption_matcher.fit(images, on_progress=on_progress)


def write(matcher: CaptionMatcher, folder: Path) -> None:
    """Write what `learn` returned to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(folder / _WEIGHTS, weights.to_bytes(matcher.towers.state_dict(), {}))
    atomic.write_text(folder / _FACTS, matcher.facts.model_dump_json() + "\n")


def read(folder: Path) -> CaptionMatcher | None:
    """Read what `write` wrote; None where nothing is there.

    Raises SearchError where it is damaged.
    """
    path = folder / _FACTS
    if not path.exists():
        return None
    try:
        matcher = CaptionMatcher(MatcherFacts.model_validate_json(path.read_bytes()), generator(0, "words"))
        expected = matcher.towers.state_dict()
        weights.check(folder / _WEIGHTS, expected)
        matcher.restore(weights.read(folder / _WEIGHTS, expected))
    except (OSError, ValueError, ModelError) as error:
        raise SearchError(f"{path} is damaged ({error}): build the index again.") from error
    return matcher


class ClipTexts:
    """The text vectors of a CLIP model.

    It comes from a folder, or from what the hub's cache already holds. Nothing is fetched, and only
    safetensors are read. Raises SearchError where the model is not there.
    """

    def __init__(self, source: str) -> None:
        if find_spec("transformers") is None:
            raise SearchError("Words for CLIP need transformers: run pip install 'danqing[transformers]'.")
        import transformers

        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            config: Any = transformers.AutoConfig.from_pretrained(source, **options)
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(source, **options)
            config.text_config.projection_dim = config.projection_dim
            with quiet(transformers.utils.logging):
                family: Any = transformers.CLIPTextModelWithProjection
                net, report = family.from_pretrained(
                    source,
                    config=config.text_config,
                    use_safetensors=True,
                    dtype=torch.float32,
                    output_loading_info=True,
                    **options,
                )
        except (AttributeError, OSError, ValueError, RuntimeError) as error:
            raise SearchError(
                f"There is no CLIP model with a tokenizer at {source}, neither as a folder nor in the hub's "
                f"cache: run hf download {source}."
            ) from error
        if lacking := sorted(report["missing_keys"]):
            raise SearchError(f"{source} lacks weights ({lacking[0]}, ...): get a whole copy.")
        self._net, self._length = net.eval(), int(config.text_config.max_position_embeddings)

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors `[n, d]` of texts."""
        ids = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._length, return_tensors="pt"
        )
        with torch.inference_mode():
            found: Tensor = self._net(
                input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]
            ).text_embeds
        return F.normalize(found, dim=1)
