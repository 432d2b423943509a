"""Pipelines of every supported class, tiny and random, from the configurations of `diffusers`."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import pre_tokenizers

_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
)
_FLOW = {"use_dynamic_shifting": True, "shift": 1.0}


def clip_tokenizer() -> Any:
    """A tokenizer of CLIP that knows single bytes."""
    words = [*_BYTES, *(f"{one}</w>" for one in _BYTES), "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: number for number, word in enumerate(words)}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def t5_tokenizer() -> Any:
    words = ["<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz,."]
    return transformers.T5Tokenizer(vocab=[(word, -1.0) for word in words], extra_ids=0)


def qwen_tokenizer() -> Any:
    words = [*_BYTES, "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {word: number for number, word in enumerate(words)}
    tokenizer = transformers.Qwen2Tokenizer(
        vocab=vocab, merges=[], additional_special_tokens=["<|im_start|>", "<|im_end|>"]
    )
    tokenizer.chat_template = _CHAT
    return tokenizer


def gemma_tokenizer() -> Any:
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *"abcdefghijklmnopqrstuvwxyz,."]
    vocab = {word: number for number, word in enumerate(words)}
    return transformers.GemmaTokenizer(vocab=vocab, merges=[])


def clip_text(projection: bool = False, width: int = 16) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=514,
        hidden_size=width,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=width,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return kind(config)


def t5_text(width: int = 16) -> Any:
    return transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=40, d_model=width, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
    )


def vae(channels: int = 4, **settings: Any) -> Any:
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
        **settings,
    )


def unet(cross: int, **settings: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross,
        attention_head_dim=4,
        norm_num_groups=4,
        **settings,
    )


def sd1() -> Any:
    """Stable Diffusion 1: a UNet that predicts noise, one CLIP."""
    return diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip_text(),
        tokenizer=clip_tokenizer(),
        unet=unet(16),
        scheduler=diffusers.PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd2() -> Any:
    """Stable Diffusion 2: predicts velocities."""
    pipe = sd1()
    pipe.scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", prediction_type="v_prediction", clip_sample=False, steps_offset=1
    )
    return pipe


def sdxl(scheduler: Any = None) -> Any:
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip_text(),
        text_encoder_2=clip_text(projection=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet(
            32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 16,
        ),
        scheduler=scheduler
        or diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1),
        add_watermarker=False,
    )


def sdxl_turbo() -> Any:
    return sdxl(diffusers.EulerAncestralDiscreteScheduler(timestep_spacing="trailing"))


def sd3() -> Any:
    return diffusers.StableDiffusion3Pipeline(
        vae=vae(16, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text(projection=True),
        text_encoder_2=clip_text(projection=True),
        text_encoder_3=t5_text(32),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=t5_tokenizer(),
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=32,
            pos_embed_max_size=32,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def flux(guidance: bool = True) -> Any:
    return diffusers.FluxPipeline(
        vae=vae(4, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text(),
        text_encoder_2=t5_text(),
        tokenizer=clip_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        transformer=diffusers.FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            guidance_embeds=guidance,
            axes_dims_rope=(2, 2, 4),
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**_FLOW),
    )


def flux_schnell() -> Any:
    return flux(guidance=False)


def qwen() -> Any:
    text = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 264,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6},
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    return diffusers.QwenImagePipeline(
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.0, 1.5, 2.0, 1.2],
        ),
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(
            transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
        ),
        tokenizer=qwen_tokenizer(),
        transformer=diffusers.QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(2, 2, 4),
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**_FLOW),
    )


def z_image() -> Any:
    return diffusers.ZImagePipeline(
        vae=vae(4, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=transformers.Qwen3Model(
            transformers.Qwen3Config(
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                head_dim=8,
                vocab_size=264,
            )
        ),
        tokenizer=qwen_tokenizer(),
        transformer=diffusers.ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[4, 6, 6],
            axes_lens=[640, 32, 32],
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def sana() -> Any:
    return diffusers.SanaPipeline(
        vae=diffusers.AutoencoderDC(
            latent_channels=4,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 16),
            decoder_block_out_channels=(8, 16),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            attention_head_dim=8,
            upsample_block_type="interpolate",
            downsample_block_type="stride_conv",
            scaling_factor=0.41407,
        ),
        text_encoder=transformers.Gemma2Model(
            transformers.Gemma2Config(
                vocab_size=64,
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                head_dim=8,
            )
        ),
        tokenizer=gemma_tokenizer(),
        transformer=diffusers.SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=8,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=16,
            sample_size=16,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def _pixart(kind: Any) -> Any:
    return kind(
        vae=vae(),
        text_encoder=t5_text(),
        tokenizer=t5_tokenizer(),
        transformer=diffusers.PixArtTransformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            cross_attention_dim=16,
            caption_channels=16,
            use_additional_conditions=False,
        ),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )


def pixart_alpha() -> Any:
    return _pixart(diffusers.PixArtAlphaPipeline)


def pixart_sigma() -> Any:
    return _pixart(diffusers.PixArtSigmaPipeline)


KINDS: dict[str, Callable[[], Any]] = {
    "sd1": sd1,
    "sd2": sd2,
    "sdxl": sdxl,
    "sdxl-turbo": sdxl_turbo,
    "sd3": sd3,
    "flux": flux,
    "flux-schnell": flux_schnell,
    "qwen-image": qwen,
    "z-image": z_image,
    "sana": sana,
    "pixart-alpha": pixart_alpha,
    "pixart-sigma": pixart_sigma,
}


def written(kind: str, folder: Path, seed: int = 0) -> Path:
    """Save a tiny random pipeline as the hub has them; returns its folder."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        KINDS[kind]().save_pretrained(folder, safe_serialization=True)
    return folder
