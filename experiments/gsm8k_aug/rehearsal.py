"""Files to rehearse with, made here: problems as in GSM8K-Aug and GSM8K, a tokenizer as Llama 2's, weights as SMDM's.

The problems are the package's own generated stories, so a rehearsal needs no network and no data of others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from lightning_mdm.data.difficulty import Difficulty
from lightning_mdm.data.problem import Problem
from lightning_mdm.data.word_problems import content_of, generate
from lightning_mdm.nets.denoiser import TransformerDenoiser
from lightning_mdm.nets.smdm import to_published
from lightning_mdm.nets.transformer import TransformerConfig

DIFFICULTY = Difficulty(min_steps=2, max_steps=2, max_value=30, operations="+-")
SIZES = {"train": 400, "validation": 20, "test": 20}
VOCAB_SIZE = 512


def problems(split: str, n: int) -> list[Problem]:
    """The first ``n`` problems of a split that differ in their arithmetic."""
    found: dict[str, Problem] = {}
    k = 0
    while len(found) < n:
        problem = generate(split, k, DIFFICULTY)
        found.setdefault(content_of(problem.response), problem)
        k += 1
    return list(found.values())


def aug_line(problem: Problem) -> str:
    """``question||thought #### answer``, as in the text files of GSM8K-Aug."""
    return f"{problem.prompt}||{problem.response}"


def aug_record(problem: Problem) -> dict[str, str]:
    """The fields of ``zen-E/GSM8k-Aug``."""
    thought, _, answer = problem.response.rpartition(" #### ")
    return {"question": problem.prompt, "cot": thought, "answer": answer}


def natural_record(problem: Problem) -> dict[str, str]:
    """The fields of ``openai/gsm8k``: a solution in words, with the equations in it."""
    thought, _, answer = problem.response.rpartition(" #### ")
    solution = "\n".join(f"That makes {equation}." for equation in thought.split(" "))
    return {"question": problem.prompt, "answer": f"{solution}\n#### {answer}"}


def llama_tokenizer(texts: Iterable[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """A tokenizer that treats text as Llama 2's does, with a small vocabulary of its own.

    ``<unk>``, ``<s>`` and ``</s>`` are its first ids, bytes stand for what it lacks, spaces are ``▁`` and one is put
    in front of a text, digits are single.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    ascii_signs = [chr(code) for code in range(33, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=ascii_signs, show_progress=False
    )
    tokenizer.train_from_iterator([*texts, "Question: Answer:"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    content = json.loads(tokenizer.to_str())
    # Bytes are plain tokens: as special ones they would be decoded by their names.
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(content))


def write(folder: Path) -> None:
    """Write ``train.jsonl`` (fields of GSM8K-Aug), ``icot_valid.txt``, ``test.jsonl`` (of GSM8K), ``tokenizer.json``.

    The validation problems stand in the training file too, as GSM8K's do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = {split: problems(split, n) for split, n in SIZES.items()}
    train = [json.dumps(aug_record(problem)) for problem in [*made["train"], *made["validation"]]]
    (folder / "train.jsonl").write_text("".join(f"{line}\n" for line in train), encoding="utf-8")
    lines = [aug_line(problem) for problem in made["validation"]]
    (folder / "icot_valid.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    test = [json.dumps(natural_record(problem)) for problem in made["test"]]
    (folder / "test.jsonl").write_text("".join(f"{line}\n" for line in test), encoding="utf-8")
    texts = [text for problem in made["train"] for text in (problem.prompt, problem.response)]
    llama_tokenizer(texts).save(str(folder / "tokenizer.json"))


def write_weights(path: Path, config: Path, seed: int = 0) -> None:
    """Write random weights in the published layout, of the net that a configuration describes."""
    options = yaml.safe_load(config.read_text(encoding="utf-8"))
    net = TransformerConfig(**options["model"]["init_args"]["net"])
    torch.manual_seed(seed)
    denoiser = TransformerDenoiser(options["data"]["init_args"]["vocab_size"], net)
    state = to_published(denoiser.state_dict(), net)
    save_file({name: value.contiguous() for name, value in state.items()}, path)
