"""Text encoders of every kind that `transformers` has, tiny and random, saved as the hub has them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

WORDS = ["[PAD]", "[UNK]", "[END]", "a", "red", "heart", "two", "blue", "stars", "top"]
SMALL = {"vocab_size": len(WORDS), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 2}
BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
BART = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2}
BART |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}


def bert() -> tuple[Any, Callable[[Any, Tensor], Any]]:
    network = transformers.BertForMaskedLM(transformers.BertConfig(**SMALL, **BERT))
    return network, lambda network, ids: network.bert(ids)


def t5() -> tuple[Any, Callable[[Any, Tensor], Any]]:
    network = transformers.T5ForConditionalGeneration(transformers.T5Config(**SMALL, **T5))
    return network, lambda network, ids: network.get_encoder()(ids)


def gpt2() -> tuple[Any, Callable[[Any, Tensor], Any]]:
    network = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SMALL, **GPT2))
    return network, lambda network, ids: network.transformer(ids)


def bart() -> tuple[Any, Callable[[Any, Tensor], Any]]:
    network = transformers.BartForConditionalGeneration(transformers.BartConfig(**SMALL, **BART))
    return network, lambda network, ids: network.get_encoder()(ids)


def clip() -> tuple[Any, Callable[[Any, Tensor], Any]]:
    text = {**SMALL, **BERT, "max_position_embeddings": 12, "projection_dim": 8}
    vision = {**BERT, "image_size": 16, "patch_size": 8, "projection_dim": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    return transformers.CLIPModel(config), lambda network, ids: network.text_model(ids)


KINDS = {"bert": bert, "t5": t5, "gpt2": gpt2, "bart": bart, "clip": clip}


def written(kind: str, folder: Path, seed: int = 0) -> tuple[Path, Callable[[str], Tensor]]:
    """A tiny random network saved as the hub has it, and what its own library makes of a text."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("$A [END]", special_tokens=[("[END]", 2)])
    longest = 12 if kind == "clip" else 64
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[END]", model_max_length=longest
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network, states = KINDS[kind]()
    network.eval().save_pretrained(folder)
    fast.save_pretrained(folder)

    @torch.no_grad()
    def expected(text: str) -> Tensor:
        return states(network, torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0]

    return folder, expected
