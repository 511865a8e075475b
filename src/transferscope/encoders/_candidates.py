"""Lists of encoders that are worth a try, each list under one name.

As on the day in `CHECKED`. Vision: names and licences from the registry of timm 1.0.31. Text:
every licence was looked up, in stored copies of the models' pages on the Hugging Face hub, and for
E5, BGE, all-mpnet and all-MiniLM in the model list of mteb's documentation; sizes were counted on
the architectures of transformers 5.23. Pages change: read a model's own before you depend on it.
Sizes are parameters without head and pooler.
"""

from __future__ import annotations

from dataclasses import dataclass

#: When the table was made.
CHECKED = "2026-11-21"


@dataclass(frozen=True)
class Candidate:
    """One encoder of a list.

    Parameters
    ----------
    name : str
        What `load_encoder` takes.
    licence : str
        SPDX identifier in lower case, or the publisher's own name for it.
    n_parameters : int
        Without head and pooler.
    """

    name: str
    licence: str
    n_parameters: int


#: name of the list -> its encoders
CANDIDATES: dict[str, tuple[Candidate, ...]] = {
    "text-base": (
        Candidate("hf/google-bert/bert-base-uncased", "apache-2.0", 108_891_648),
        Candidate("hf/FacebookAI/roberta-base", "mit", 124_055_040),
        Candidate("hf/FacebookAI/xlm-roberta-base", "mit", 277_453_056),
        Candidate("hf/distilbert/distilbert-base-uncased", "apache-2.0", 66_362_880),
        Candidate("hf/google/electra-base-discriminator", "apache-2.0", 108_891_648),
        Candidate("hf/microsoft/deberta-v3-base", "mit", 183_831_552),
        Candidate("hf/answerdotai/ModernBERT-base", "apache-2.0", 149_014_272),
        Candidate("hf/sentence-transformers/all-mpnet-base-v2", "apache-2.0", 108_895_872),
        Candidate("hf/sentence-transformers/all-MiniLM-L12-v2", "apache-2.0", 33_212_160),
        Candidate("hf/intfloat/e5-base-v2", "mit", 108_891_648),
        Candidate("hf/BAAI/bge-base-en-v1.5", "mit", 108_891_648),
    ),
    "text-large": (
        Candidate("hf/google-bert/bert-large-uncased", "apache-2.0", 334_092_288),
        Candidate("hf/FacebookAI/roberta-large", "mit", 354_310_144),
        Candidate("hf/FacebookAI/xlm-roberta-large", "mit", 558_840_832),
        Candidate("hf/google/electra-large-discriminator", "apache-2.0", 334_092_288),
        Candidate("hf/microsoft/deberta-v3-large", "mit", 434_012_160),
        Candidate("hf/answerdotai/ModernBERT-large", "apache-2.0", 394_781_696),
        Candidate("hf/intfloat/e5-large-v2", "mit", 334_092_288),
        Candidate("hf/BAAI/bge-large-en-v1.5", "mit", 334_092_288),
        Candidate("hf/Qwen/Qwen3-Embedding-0.6B", "apache-2.0", 595_776_512),
    ),
    "vision-base": (
        Candidate("timm/resnet50.a1_in1k", "apache-2.0", 23_508_032),
        Candidate("timm/tf_efficientnetv2_s.in21k", "apache-2.0", 20_177_488),
        Candidate("timm/convnext_base.fb_in22k", "apache-2.0", 87_566_464),
        Candidate("timm/swin_base_patch4_window7_224.ms_in22k", "mit", 86_743_224),
        Candidate("timm/vit_base_patch16_224.augreg_in21k", "apache-2.0", 85_798_656),
        Candidate("timm/deit3_base_patch16_224.fb_in22k_ft_in1k", "apache-2.0", 85_816_320),
        Candidate("timm/vit_base_patch16_clip_224.openai", "apache-2.0", 85_799_424),
        Candidate("timm/vit_base_patch16_siglip_224.webli", "apache-2.0", 92_884_224),
    ),
    "vision-large": (
        Candidate("timm/convnext_large.fb_in22k", "apache-2.0", 196_230_336),
        Candidate("timm/swin_large_patch4_window7_224.ms_in22k", "mit", 194_995_476),
        Candidate("timm/vit_large_patch16_224.augreg_in21k", "apache-2.0", 303_301_632),
        Candidate("timm/deit3_large_patch16_224.fb_in22k_ft_in1k", "apache-2.0", 303_349_760),
        Candidate("timm/vit_large_patch14_clip_224.openai", "apache-2.0", 303_179_776),
        Candidate("timm/vit_large_patch16_siglip_256.webli", "apache-2.0", 315_956_224),
        Candidate("timm/eva02_large_patch14_224.mim_m38m", "mit", 303_268_800),
    ),
    "vision-ssl": (
        Candidate("timm/vit_small_patch16_224.dino", "apache-2.0", 21_665_664),
        Candidate("timm/vit_base_patch16_224.dino", "apache-2.0", 85_798_656),
        Candidate("timm/vit_small_patch14_dinov2.lvd142m", "apache-2.0", 22_056_192),
        Candidate("timm/vit_base_patch14_dinov2.lvd142m", "apache-2.0", 86_579_712),
        Candidate("timm/vit_base_patch16_dinov3.lvd1689m", "dinov3-license", 85_641_216),
        Candidate("timm/vit_base_patch16_224.mae", "cc-by-nc-4.0", 85_798_656),
        Candidate("timm/convnextv2_base.fcmae", "cc-by-nc-4.0", 87_692_800),
        Candidate("timm/eva02_base_patch14_224.mim_in22k", "mit", 85_758_720),
    ),
}
