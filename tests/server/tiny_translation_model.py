"""A real CTranslate2 model, built here, that knows one word: whatever it is given, it says "olá" until stopped."""

import io
import json
import zipfile
from pathlib import Path

import ctranslate2
import numpy as np
import sentencepiece

WIDTH = 8
WORD = "▁olá"
TEXT = ["good morning", "olá", "where is the station", "bom dia olá", "olá olá", "the train is late"]


def _linear(spec, outputs: int, inputs: int = WIDTH) -> None:
    spec.weight = np.zeros((outputs, inputs), np.float32)
    spec.bias = np.zeros(outputs, np.float32)


def _norm(spec) -> None:
    spec.gamma = np.ones(WIDTH, np.float32)
    spec.beta = np.zeros(WIDTH, np.float32)


def _feed_forward(spec) -> None:
    _norm(spec.layer_norm)
    _linear(spec.linear_0, 2 * WIDTH)
    _linear(spec.linear_1, WIDTH, 2 * WIDTH)


def _attention(spec, *outputs: int) -> None:
    _norm(spec.layer_norm)
    for linear, count in zip(spec.linear, outputs, strict=True):
        _linear(linear, count)


def _pieces() -> bytes:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 20),
        model_writer=written,
        vocab_size=40,
        user_defined_symbols=[WORD],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return written.getvalue()


def build(folder: Path, *, opus_mt: bool) -> Path:
    """Writes the model in either of the two forms that are known."""
    folder.mkdir(parents=True)
    pieces = _pieces()
    processor = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    tokens = [processor.id_to_piece(number) for number in range(processor.get_piece_size())]
    spec = ctranslate2.specs.TransformerSpec.from_config(num_layers=1, num_heads=2, pre_norm=True)
    spec.encoder.embeddings[0].weight = np.zeros((len(tokens), WIDTH), np.float32)
    spec.decoder.embeddings.weight = np.zeros((len(tokens), WIDTH), np.float32)
    for half in (spec.encoder, spec.decoder):
        _norm(half.layer_norm)
        _attention(half.layer[0].self_attention, 3 * WIDTH, WIDTH)
        _feed_forward(half.layer[0].ffn)
    _attention(spec.decoder.layer[0].attention, WIDTH, 2 * WIDTH, WIDTH)
    _linear(spec.decoder.projection, len(tokens))
    spec.decoder.projection.bias[tokens.index(WORD)] = 10
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.validate()
    model = folder if opus_mt else folder / "model"
    model.mkdir(exist_ok=True)
    spec.save(str(model))
    for name in ("source.spm", "target.spm") if opus_mt else ("sentencepiece.model",):
        (folder / name).write_bytes(pieces)
    if not opus_mt:
        (folder / "metadata.json").write_text(json.dumps({"from_code": "en", "to_code": "xx"}))
    return folder


def pack(folder: Path, archive: Path) -> Path:
    """The model as its author would offer it."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(folder.rglob("*")):
            packed.write(file, f"translate-en_xx-1_0/{file.relative_to(folder)}")
    return archive
