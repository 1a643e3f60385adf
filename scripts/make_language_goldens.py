#!/usr/bin/env python3
"""Goldens of text towers beyond CLIP's own: tiny ones with random weights in OpenCLIP's and Hugging
Face's layouts, with tokenizers of their kinds, and what open_clip and transformers make of some
texts, in float64.

    python scripts/make_language_goldens.py      writes tests/fixtures/languages

Needs torch, open_clip_torch, transformers, safetensors, tokenizers. Weights are stored in 16 bit.
"""

import json
import pathlib
import shutil

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

import tower_reference as reference

ROOT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures"
TEXTS = ["a photo of a cat", "a photo of a red dog", "фото кота", "猫の写真", "صورة قطة"]
PIECES = "▁a ▁photo ▁of ▁cat ▁red ▁dog ▁ фото ▁фото кот а о т 猫 の 写真 写".split()
PIECES += "صورة قطة ق ط ة c r e d".split()
CONTEXT = 32
DIM = 24


def sentence_pieces(special: list[str], template: str, unknown: str) -> Tokenizer:
    """Pieces of many languages, as XLM-V's and mT5's tokenizers have them."""
    words = [(token, 0.0) for token in special]
    scored = [(piece, -1.0 - i / 10) for i, piece in enumerate(PIECES)]
    tokenizer = Tokenizer(models.Unigram(words + scored, unk_id=special.index(unknown)))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(special)
    ends = [(token, special.index(token)) for token in template.split() if token != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(template, None, ends)
    return tokenizer


def word_pieces() -> Tokenizer:
    """As BERT has them, with its classes of characters."""
    letters = sorted({letter for text in TEXTS for letter in text if letter != " "})
    words = ["a", "photo", "of", "cat", "red", "##t", "dog", "фото", "кот", "##а", "##ة", "##ط"]
    words += ["##و", "##ر", "##ص", "##ق"]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(words + letters)]
    model = models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, ends)
    return tokenizer


def byte_pairs() -> Tokenizer:
    """CLIP's form without its merges: bytes, those that end a word apart, the end token last."""
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = ["<|startoftext|>", "<|endoftext|>"]
    words = [*bytes_, *(letter + "</w>" for letter in bytes_), *ends]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    split = pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True)
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_of])
    tokenizer.add_special_tokens(ends)
    template = f"{ends[0]} $A {ends[1]}"
    ids = [(end, vocabulary[end]) for end in ends]
    tokenizer.post_processor = processors.TemplateProcessing(template, None, ids)
    return tokenizer


def tokens(tokenizer: Tokenizer, padding: int, without: int | None = None) -> torch.Tensor:
    tokenizer.no_padding()
    tokenizer.no_truncation()
    rows = []
    for text in TEXTS:
        row = tokenizer.encode(text).ids
        row = [padding if token == without else token for token in row]
        assert len(row) <= CONTEXT, (text, len(row))
        rows.append(row + [padding] * (CONTEXT - len(row)))
    return torch.tensor(rows)


@torch.no_grad()
def save(name: str, tokenizer: Tokenizer, ids: torch.Tensor, options: dict, said: dict) -> None:
    from open_clip.transformer import TextTransformer

    width = DIM if options.get("proj_type") == "none" else 16
    sizes = dict(vocab_size=tokenizer.get_vocab_size(), width=width, heads=2, layers=2)
    sizes |= dict(context_length=CONTEXT)
    tower = TextTransformer(**sizes, **options, output_dim=DIM).double().eval()
    reference.spread(tower, len(name))
    state = {f"text.{key}": value for key, value in tower.state_dict().items()}
    write(name, state, sizes | options | said, ids, tower(ids))
    tokenizer.save(str(ROOT / "languages" / name / "tokenizer.json"), pretty=False)


def write(name: str, state: dict, text: dict, ids: torch.Tensor, features: torch.Tensor) -> None:
    """In OpenCLIP's layout, or in Hugging Face's, where `text` is a whole configuration."""
    made = ROOT / "languages" / name
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    floats = {key: value for key, value in state.items() if value.is_floating_point()}
    weights = {key: value.half().contiguous() for key, value in floats.items()}
    if "model_type" in text:
        files, config = ("model.safetensors", "config.json"), text
    else:
        files = ("open_clip_model.safetensors", "open_clip_config.json")
        vision = dict(image_size=32, layers=2, width=32, head_width=16, patch_size=16)
        config = dict(model_cfg=dict(embed_dim=DIM, vision_cfg=vision, text_cfg=text))
    save_file(weights, made / files[0])
    (made / files[1]).write_text(json.dumps(config, indent=1) + "\n")
    (made / "texts.json").write_text(json.dumps(TEXTS, ensure_ascii=False) + "\n")
    expected = {"tokens": ids, "text": features.float().contiguous()}
    save_file(expected, made / "expected.safetensors")


@torch.no_grad()
def xlm_roberta(tokenizer: Tokenizer) -> None:
    """OpenCLIP's adapter of Hugging Face's encoders."""
    from open_clip.hf_model import HFTextEncoder
    from transformers import XLMRobertaConfig

    shape = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2)
    shape |= dict(intermediate_size=32, max_position_embeddings=CONTEXT + 2, type_vocab_size=1)
    shape |= dict(layer_norm_eps=1e-5)  # As the published ones have it.
    config = XLMRobertaConfig(vocab_size=tokenizer.get_vocab_size(), **shape)
    tower = HFTextEncoder("", DIM, config, pooler_type="mean_pooler", proj_type="mlp")
    tower = tower.double().eval()
    reference.spread(tower, 5)
    ids = tokens(tokenizer, 1)
    state = {f"text.{key}": value for key, value in tower.state_dict().items()}
    said = dict(hf_model_name="xlm-roberta-base", hf_tokenizer_name="xlm-roberta-base")
    said |= dict(hf_pooler_type="mean_pooler", context_length=CONTEXT)
    write("xlm_roberta", state, said, ids, tower(ids))
    tokenizer.save(str(ROOT / "languages" / "xlm_roberta" / "tokenizer.json"), pretty=False)


VISION = dict(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=32,
    patch_size=16,
)


@torch.no_grad()
def hugging_face(name: str, model, config: dict, ids: torch.Tensor, filling: int) -> None:
    model = model.double().eval()
    reference.spread(model, len(name))
    given = dict(input_ids=ids, attention_mask=(ids != filling).long())
    features = model.get_text_features(**given)
    features = getattr(features, "pooler_output", features)
    write(name, model.state_dict(), config, ids, features)


def chinese_clip() -> None:
    """With the tokenizer's file of older repositories, a word a line."""
    from transformers import ChineseCLIPConfig, ChineseCLIPModel

    tokenizer = word_pieces()
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    shape = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    shape |= dict(vocab_size=len(words), max_position_embeddings=CONTEXT)
    whole = dict(text_config=shape, vision_config=VISION, projection_dim=DIM)
    model = ChineseCLIPModel(ChineseCLIPConfig(**whole))
    config = dict(model_type="chinese_clip", **whole)
    hugging_face("chinese_clip", model, config, tokens(tokenizer, 0), 0)
    file = ROOT / "languages" / "chinese_clip" / "vocab.txt"
    file.write_text("".join(f"{word}\n" for word, _ in words))


def altclip(tokenizer: Tokenizer) -> None:
    from transformers import AltCLIPConfig, AltCLIPModel

    shape = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    shape |= dict(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=CONTEXT + 2)
    shape |= dict(project_dim=20, pad_token_id=1)
    whole = dict(text_config=shape, vision_config=VISION, projection_dim=DIM)
    model = AltCLIPModel(AltCLIPConfig(**whole))
    config = dict(model_type="altclip", **whole)
    hugging_face("altclip", model, config, tokens(tokenizer, 1), 1)
    tokenizer.save(str(ROOT / "languages" / "altclip" / "tokenizer.json"), pretty=False)


def main() -> None:
    xlm = sentence_pieces(["<s>", "<pad>", "</s>", "<unk>"], "<s> $A </s>", "<unk>")
    said = dict(hf_tokenizer_name="facebook/xlm-v-base")
    eos = dict(pool_type="eos", eos_id=2)
    save("metaclip_2", xlm, tokens(xlm, 1), eos, said)
    mt5 = sentence_pieces(["<pad>", "</s>", "<unk>"], "$A </s>", "<unk>")
    said = dict(hf_tokenizer_name="google/mt5-base", tokenizer_kwargs=dict(clean="canonicalize"))
    save("metaclip_2_mt5", mt5, tokens(mt5, 0), dict(pool_type="eos", eos_id=1), said)
    bert = word_pieces()
    said = dict(hf_tokenizer_name="bert-base-uncased")
    said |= dict(tokenizer_kwargs=dict(strip_sep_token=True))
    whole = dict(pool_type="last", no_causal_mask=True)
    save("clipa", bert, tokens(bert, 0, without=3), whole, said)
    clip = byte_pairs()
    save("mobileclip", clip, tokens(clip, 0), dict(no_causal_mask=True), {})
    i18n = sentence_pieces(["<pad>", "</s>", "<unk>"], "$A </s>", "<unk>")
    said = dict(tokenizer_kwargs=dict(clean="canonicalize"))
    save("siglip_i18n", i18n, tokens(i18n, 1), whole | dict(proj_type="none"), said)
    save("layer_scale", clip, tokens(clip, 0), dict(ls_init_value=1e-4), {})
    xlm_roberta(xlm)
    chinese_clip()
    altclip(xlm)
    # One that fills the context.
    TEXTS.append("abcdefghijklmnopqrstuvwxyzabcd")
    save("coca", clip, tokens(clip, 0), dict(embed_cls=True), {})
    save("coca_mended", clip, tokens(clip, 0), dict(embed_cls=True, correct_cls_mask=True), {})


if __name__ == "__main__":
    main()
