"""Tokenizers: byte-level BPE with every digit a token of its own, trained on a task's text, or any ``tokenizer.json``.

Knows nothing of problems or models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lightning_mdm import hub
from lightning_mdm.checkpoint import read_checkpoint

PAD, EOS = "<|pad|>", "<|eos|>"
# What widespread tokenizers call them, the likeliest first.
EOS_NAMES = (EOS, "</s>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<eos>", "[EOS]")
PAD_NAMES = (PAD, "<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>")
ALPHABET = pre_tokenizers.ByteLevel.alphabet()


def check_vocab_size(vocab_size: int) -> None:
    """Raise ``ValueError`` where ``vocab_size`` leaves no room for the 256 bytes and the two special tokens."""
    if vocab_size < len(ALPHABET) + 2:
        raise ValueError(
            f"vocab_size={vocab_size}: byte-level BPE needs at least {len(ALPHABET) + 2} tokens "
            f"(256 bytes and {PAD}, {EOS}); raise data.vocab_size"
        )


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train on ``texts``; the result has at most ``vocab_size`` tokens.

    Every byte is in the vocabulary, so any text can be encoded, and digits are split before merging, so that a
    number's digits are unmasked one by one.

    Raises:
        ValueError: ``vocab_size`` leaves no room for the 256 bytes and the two special tokens.
    """
    check_vocab_size(vocab_size)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD, EOS], initial_alphabet=sorted(ALPHABET), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def parse_tokenizer(content: str, origin: str) -> Tokenizer:
    """A tokenizer from the content of a ``tokenizer.json``; ``origin`` names it in errors.

    Padding and truncation that a file may ask for are switched off: a cut text would be a silent loss.

    Raises:
        ValueError: the content is no tokenizer.
    """
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{origin} is no tokenizer.json of the tokenizers library: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def read_tokenizer(path: str) -> Tokenizer:
    """The tokenizer in a file.

    Args:
        path: a ``tokenizer.json``, one of the hub (``hf://OWNER/NAME/tokenizer.json``), or the checkpoint of a training
            on text.

    Raises:
        ValueError: no such file, or it holds no tokenizer.
    """
    if hub.is_address(path):
        found = hub.fetch(path, option="tokenizer_path")
        return parse_tokenizer(found.read_text(encoding="utf-8"), f"tokenizer_path={path!r}")
    if not Path(path).is_file():
        raise ValueError(f"tokenizer_path={path!r}: no such file; give a tokenizer.json, or none to train a tokenizer")
    held = checkpoint_tokenizer(path, option="tokenizer_path")
    return parse_tokenizer(held or Path(path).read_text(encoding="utf-8"), f"tokenizer_path={path!r}")


def tokenizer_path_of(weights: str, *, option: str) -> str | None:
    """Where the tokenizer is that weights were trained with: in a ``tokenizer.json`` beside them, or their checkpoint.

    Args:
        weights: their file, or its address on the hub.
        option: what that is called in messages.

    Returns:
        ``None`` where there is neither.

    Raises:
        ValueError: a damaged checkpoint.
    """
    beside = Path(weights).with_name("tokenizer.json")
    if beside.is_file():
        return str(beside)
    return None if checkpoint_tokenizer(weights, option=option) is None else weights


def checkpoint_tokenizer(path: str, *, option: str) -> str | None:
    """The content of a ``tokenizer.json`` that a checkpoint holds for its data, whatever task of text that was.

    ``None`` where the file is no ``.ckpt``, or its data had no tokenizer.
    """
    if not path.endswith(".ckpt"):
        return None
    parts = read_checkpoint(path, option=option).values()
    return next((str(part["tokenizer"]) for part in parts if isinstance(part, dict) and "tokenizer" in part), None)


def check_digits(tokenizer: Tokenizer, origin: str) -> None:
    """Raise ``ValueError`` where a tokenizer makes one token of several digits; ``origin`` names it."""
    tokens = tokenizer.encode("1234567890 2024 100", add_special_tokens=False).tokens
    joined = next((token for token in tokens if sum(map(str.isdigit, token)) > 1), None)
    if joined is not None:
        raise ValueError(
            f"{origin} makes one token of {joined!r}; arithmetic is learned digit by digit: give a tokenizer that "
            "splits digits, as Llama 2's"
        )


def find_token(tokenizer: Tokenizer, option: str, asked: str | None, names: Sequence[str]) -> int | None:
    """The id of the token ``asked`` for by ``option``, or else of the first of ``names`` there is, or ``None``.

    Raises:
        ValueError: the token asked for is not in the vocabulary.
    """
    if asked is not None:
        token = tokenizer.token_to_id(asked)
        if token is None:
            raise ValueError(f"{option}={asked!r}: the tokenizer has no such token")
        return int(token)
    return next((token for name in names if (token := tokenizer.token_to_id(name)) is not None), None)


def ids_in_use(tokenizer: Tokenizer) -> set[int]:
    """All ids that stand for a token, added ones included."""
    return set(tokenizer.get_vocab(with_added_tokens=True).values())
